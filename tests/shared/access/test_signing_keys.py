"""The keys of an identity provider: kept, refetched within bounds, believed for a while when it is away."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from shared.access.signing_keys import FRESH_SECONDS, REFETCH_SECONDS, STALE_SECONDS, SigningKeys
from shared.errors import UnavailableError
from tests.shared.access.conftest import Provider


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock for one test."""
    return Clock()


@pytest.fixture
def keys(provider: Provider, clock: Clock) -> SigningKeys:
    """The provider's keys, unread."""
    return SigningKeys("http://127.0.0.1/keys", clock=clock, transport=provider.transport)


async def settle(keys: SigningKeys) -> None:
    """Wait until nothing is asked any more."""
    assert keys._asking is not None
    await keys._asking


async def test_keys_are_read_when_first_needed_and_kept(keys: SigningKeys, provider: Provider) -> None:
    found = await keys.find("rsa-1")
    assert found is not None
    assert found["kty"] == "RSA"
    assert await keys.find("ec-1") is not None
    assert provider.asked == 1


async def test_many_callers_share_one_question(keys: SigningKeys, provider: Provider) -> None:
    found = await asyncio.gather(*(keys.find("rsa-1") for _ in range(20)))
    assert all(found)
    assert provider.asked == 1


async def test_new_key_is_found_at_once_and_made_up_ones_ask_seldom(keys: SigningKeys, provider: Provider, clock: Clock) -> None:
    await keys.find("rsa-1")
    provider.private["rsa-2"] = provider.private["rsa-1"]
    for number in range(50):
        assert await keys.find(f"made-up-{number}") is None
    assert provider.asked == 1
    clock.now += REFETCH_SECONDS
    assert await keys.find("rsa-2") is not None
    assert provider.asked == 2


async def test_withdrawn_key_is_believed_for_an_hour_at_most(keys: SigningKeys, provider: Provider, clock: Clock) -> None:
    await keys.find("rsa-1")
    del provider.private["rsa-1"]
    clock.now += FRESH_SECONDS - 1
    assert await keys.find("rsa-1") is not None
    clock.now += 1
    await keys.find("rsa-1")  # asks beside the request
    await settle(keys)
    assert await keys.find("rsa-1") is None


async def test_known_keys_serve_while_the_provider_is_away_for_a_day_at_most(keys: SigningKeys, provider: Provider, clock: Clock) -> None:
    await keys.find("rsa-1")
    provider.answer = lambda: httpx.Response(503)
    clock.now += STALE_SECONDS - 1
    assert await keys.find("rsa-1") is not None
    await settle(keys)
    clock.now += 1
    with pytest.raises(UnavailableError, match="identity provider"):
        await keys.find("rsa-1")


async def test_keys_that_are_too_old_are_read_anew_before_anybody_is_refused(keys: SigningKeys, provider: Provider, clock: Clock) -> None:
    await keys.find("rsa-1")
    clock.now += STALE_SECONDS
    assert await keys.find("rsa-1") is not None
    assert provider.asked == 2


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500),
        httpx.Response(302, headers={"Location": "http://127.0.0.1/other"}),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"keys": "none"}),
        httpx.Response(200, content=b" " * 1_048_577),
    ],
    ids=["error", "elsewhere", "no-json", "no-object", "no-list", "too-large"],
)
async def test_provider_that_answers_no_keys_is_unavailable_and_recovers(
    keys: SigningKeys, provider: Provider, clock: Clock, answer: httpx.Response
) -> None:
    working, provider.answer = provider.answer, lambda: answer
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await keys.find("rsa-1")
    assert provider.asked == 1
    provider.answer = working
    clock.now += REFETCH_SECONDS
    assert await keys.find("rsa-1") is not None


async def test_shared_secrets_and_keys_for_encryption_are_left_out(keys: SigningKeys, provider: Provider) -> None:
    document = provider.key_set()
    for_encryption = {**document["keys"][0], "kid": "enc", "use": "enc"}
    document["keys"] += [{"kty": "oct", "kid": "secret", "k": "AAAA"}, for_encryption, "no key", {"kty": "RSA"}]
    provider.answer = lambda: httpx.Response(200, json=document)
    assert [await keys.find(name) is not None for name in ("rsa-1", "secret", "enc")] == [True, False, False]


async def test_provider_that_hangs_blocks_nobody_for_long(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.access.signing_keys._TIMEOUT_SECONDS", 0.05)

    async def hang(_request: httpx.Request) -> Any:
        await asyncio.sleep(600)

    keys = SigningKeys("http://127.0.0.1/keys", clock=clock, transport=httpx.MockTransport(hang))
    with pytest.raises(UnavailableError):
        await keys.find("rsa-1")
    await keys.aclose()
