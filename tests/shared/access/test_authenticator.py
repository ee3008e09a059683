"""From the Authorization header to the caller."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import pytest

from shared.access.authenticator import BELIEVED_SECONDS, Authenticator
from shared.access.key_records import KeyRecords
from shared.access.signing_keys import SigningKeys
from shared.access.tokens import TokenRules, Tokens
from shared.database import Database
from shared.errors import UnauthenticatedError, UnavailableError
from shared.settings import Settings
from tests.shared.access.conftest import AUDIENCE, ISSUER, Provider


class Desk:
    """An authenticator whose clock is set by hand and whose look-ups are counted."""

    def __init__(self, records: KeyRecords, tokens: Tokens | None, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.looked_up = 0
        look_up = records.caller_of

        def counted(key: str) -> object:
            self.looked_up += 1
            return look_up(key)

        monkeypatch.setattr(records, "caller_of", counted)
        self.authenticator = Authenticator(records, tokens, clock=lambda: self.now)

    async def refusal(self, header: str | None) -> str:
        """Why a header is refused."""
        with pytest.raises(UnauthenticatedError) as raised:
            await self.authenticator.caller_of(header)
        return raised.value.reason


@pytest.fixture
def desk(records: KeyRecords, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """One that knows keys and tokens."""
    rules = TokenRules(issuer=ISSUER, audience=AUDIENCE, algorithms=("RS256",))
    tokens = Tokens(rules, SigningKeys("http://127.0.0.1/keys", transport=provider.transport))
    return Desk(records, tokens, monkeypatch)


async def test_key_and_token_open_to_their_callers(desk: Desk, records: KeyRecords, provider: Provider) -> None:
    issued = records.create(name="ward a", scopes=["read"], lifetime=None)
    assert (await desk.authenticator.caller_of(f"Bearer {issued.text}")).id == issued.id
    assert (await desk.authenticator.caller_of(f"bearer   {issued.text} ")).id == issued.id
    assert (await desk.authenticator.caller_of(f"Bearer {provider.token()}")).id == "person:dr-grey"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "missing"),
        ("", "malformed"),
        ("Bearer", "malformed"),
        ("Basic YWRtaW46YWRtaW4=", "malformed"),
        ("Bearer lethe_", "malformed"),
        ("Bearer lethe_000000000000_" + "ü" * 43, "malformed"),
        ("Bearer lethe_000000000000_" + "A" * 43, "unknown"),
    ],
)
async def test_header_that_opens_to_nobody_is_refused_with_the_reason(desk: Desk, header: str | None, reason: str) -> None:
    assert await desk.refusal(header) == reason


async def test_without_an_issuer_only_keys_are_accepted(records: KeyRecords, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await Desk(records, None, monkeypatch).refusal(f"Bearer {provider.token()}") == "malformed"


async def test_good_key_is_looked_up_once_in_a_while_by_all_who_show_it(desk: Desk, records: KeyRecords) -> None:
    issued = records.create(name="ward a", scopes=["read"], lifetime=None)
    callers = await asyncio.gather(*(desk.authenticator.caller_of(f"Bearer {issued.text}") for _ in range(20)))
    assert {caller.id for caller in callers} == {issued.id}
    desk.now += BELIEVED_SECONDS - 1
    await desk.authenticator.caller_of(f"Bearer {issued.text}")
    assert desk.looked_up == 1
    desk.now += 1
    await desk.authenticator.caller_of(f"Bearer {issued.text}")
    assert desk.looked_up == 2


async def test_revocation_and_rotation_hold_within_seconds(desk: Desk, records: KeyRecords) -> None:
    issued = records.create(name="ward a", scopes=["read"], lifetime=None)
    await desk.authenticator.caller_of(f"Bearer {issued.text}")
    rotated = records.rotate(issued.id, lifetime=None, overlap=timedelta())
    assert (await desk.authenticator.caller_of(f"Bearer {rotated.text}")).id == issued.id
    desk.now += BELIEVED_SECONDS
    assert await desk.refusal(f"Bearer {issued.text}") == "expired"
    records.revoke(issued.id)
    desk.now += BELIEVED_SECONDS
    assert await desk.refusal(f"Bearer {rotated.text}") == "revoked"


async def test_refused_keys_are_not_remembered(desk: Desk) -> None:
    for number in range(30):
        assert await desk.refusal(f"Bearer lethe_{number:012x}_{'A' * 43}") == "unknown"
    assert desk.authenticator._lookups == {}
    assert desk.looked_up == 30


async def test_caller_who_goes_away_does_not_end_the_look_up_of_others(desk: Desk, records: KeyRecords) -> None:
    issued = records.create(name="ward a", scopes=["read"], lifetime=None)
    leaving = asyncio.create_task(desk.authenticator.caller_of(f"Bearer {issued.text}"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await desk.authenticator.caller_of(f"Bearer {issued.text}")).id == issued.id
    assert desk.looked_up == 1


async def test_database_that_is_away_is_told_and_asked_again(
    desk: Desk, records: KeyRecords, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = records.create(name="ward a", scopes=["read"], lifetime=None)

    def away() -> NoReturn:
        raise UnavailableError("The database does not answer; try again later.")

    with monkeypatch.context() as patch:
        patch.setattr(database, "reading", away)
        with pytest.raises(UnavailableError):
            await desk.authenticator.caller_of(f"Bearer {issued.text}")
    assert (await desk.authenticator.caller_of(f"Bearer {issued.text}")).id == issued.id


async def test_opened_by_settings_it_uses_the_installations_own_pepper(database: Database, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    issued = KeyRecords.of(settings, database).create(name="ward a", scopes=["read"], lifetime=None)
    authenticator = Authenticator.open(settings, database)
    assert (await authenticator.caller_of(f"Bearer {issued.text}")).id == issued.id
    await authenticator.aclose()
    assert (tmp_path / "api-keys.key").stat().st_size == 32
