"""Tokens: who is let in, and each way in which a token is refused."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import httpx
import jwt
import pytest

from shared.access import Caller
from shared.access.signing_keys import SigningKeys
from shared.access.tokens import CLOCK_SKEW, TokenRules, Tokens
from shared.errors import UnauthenticatedError, UnavailableError
from shared.settings import Settings
from tests.shared.access.conftest import AUDIENCE, ISSUER, Provider

SKEW = int(CLOCK_SKEW.total_seconds())
RULES = TokenRules(issuer=ISSUER, audience=AUDIENCE, algorithms=("RS256", "ES256"))


@pytest.fixture
def tokens(provider: Provider) -> Tokens:
    """Tokens of the provider."""
    return Tokens(RULES, SigningKeys("http://127.0.0.1/keys", transport=provider.transport))


async def refusal(tokens: Tokens, token: str) -> str:
    """Why a token is refused; the message never quotes it."""
    with pytest.raises(UnauthenticatedError) as raised:
        await tokens.caller_of(token)
    assert "dr-grey" not in str(raised.value)
    assert raised.value.__cause__ is None
    return raised.value.reason


def unsigned(**claims: Any) -> str:
    """A token of algorithm none."""
    parts = ({"alg": "none", "typ": "JWT", "kid": "rsa-1"}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + "."


@pytest.mark.parametrize("key", ["rsa-1", "ec-1"])
async def test_good_token_opens_to_its_person_with_the_scopes_of_lethe(tokens: Tokens, provider: Provider, key: str) -> None:
    expected = Caller(id="person:dr-grey", kind="person", scopes=frozenset({"read", "score"}))
    assert await tokens.caller_of(provider.token(key=key)) == expected


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "openid profile"}, set()),
        ({"scope": ["generate", "email"]}, {"generate"}),
        ({"scope": None, "scp": "train"}, set()),
        ({"scope": 7}, set()),
        ({"scope": "audit:read metrics:read administrator"}, {"audit:read", "metrics:read"}),
    ],
)
async def test_scopes_are_those_that_lethe_knows(tokens: Tokens, provider: Provider, claims: dict[str, Any], scopes: set[str]) -> None:
    assert (await tokens.caller_of(provider.token(**claims))).scopes == scopes


async def test_scp_is_read_where_there_is_no_scope(tokens: Tokens, provider: Provider) -> None:
    assert (await tokens.caller_of(provider.token(without="scope", scp=["train"]))).scopes == {"train"}


async def test_clocks_may_differ_by_the_skew_and_no_more(tokens: Tokens, provider: Provider) -> None:
    now = int(time.time())
    # Ten seconds of room on each side: the test may be stopped for a while.
    assert (await tokens.caller_of(provider.token(exp=now - SKEW + 10))).id == "person:dr-grey"
    assert (await tokens.caller_of(provider.token(nbf=now + SKEW - 10))).id == "person:dr-grey"
    assert (await tokens.caller_of(provider.token(iat=now + SKEW - 10))).id == "person:dr-grey"
    assert await refusal(tokens, provider.token(exp=now - SKEW - 10)) == "expired"
    assert await refusal(tokens, provider.token(nbf=now + SKEW + 60)) == "not-yet-valid"
    assert await refusal(tokens, provider.token(iat=now + SKEW + 60)) == "not-yet-valid"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "billing"}, "audience"),
        ({"aud": ["billing", "lethe-2"]}, "audience"),
        ({"iss": "https://elsewhere.example"}, "issuer"),
        ({"iss": ISSUER[:-1]}, "issuer"),
        ({"exp": "soon"}, "malformed"),
        ({"sub": "two words"}, "malformed"),
        ({"sub": "x" * 201}, "malformed"),
        ({"sub": "line\nbreak"}, "malformed"),
        ({"sub": 7}, "malformed"),
    ],
)
async def test_token_with_a_wrong_claim_is_refused(tokens: Tokens, provider: Provider, claims: dict[str, Any], reason: str) -> None:
    assert await refusal(tokens, provider.token(**claims)) == reason


@pytest.mark.parametrize("claim", ["exp", "iss", "aud", "sub"])
async def test_token_that_lacks_a_claim_is_refused(tokens: Tokens, provider: Provider, claim: str) -> None:
    assert await refusal(tokens, provider.token(without=claim)) == "malformed"


async def test_algorithms_off_the_list_are_refused_without_asking_for_keys(tokens: Tokens, provider: Provider) -> None:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "dr-grey", "exp": int(time.time()) + 300, "scope": "admin"}
    for token in (
        unsigned(**claims),
        jwt.encode(claims, "known to whoever forges, like a public key", algorithm="HS256", headers={"kid": "rsa-1"}),
        provider.token(algorithm="RS512"),
        provider.token(algorithm="PS256"),
    ):
        assert await refusal(tokens, token) == "algorithm"
    assert provider.asked == 0


async def test_token_that_names_another_keys_algorithm_is_refused(tokens: Tokens, provider: Provider) -> None:
    provider.private["rsa-1"], provider.private["ec-1"] = provider.private["ec-1"], provider.private["rsa-1"]
    forged = provider.token(key="rsa-1", algorithm="ES256")
    provider.private["rsa-1"], provider.private["ec-1"] = provider.private["ec-1"], provider.private["rsa-1"]
    assert await refusal(tokens, forged) == "signature"


async def test_altered_token_is_refused(tokens: Tokens, provider: Provider) -> None:
    head, _, signature = provider.token().split(".")
    _, other, _ = provider.token(scope="admin").split(".")
    assert await refusal(tokens, f"{head}.{other}.{signature}") == "signature"


async def test_token_of_a_key_that_the_provider_lacks_is_refused(tokens: Tokens, provider: Provider) -> None:
    provider.private["rsa-9"] = provider.private["rsa-1"]
    forged = provider.token(key="rsa-9")
    del provider.private["rsa-9"]
    assert await refusal(tokens, forged) == "unknown"


@pytest.mark.parametrize("token", ["", "a.b.c", "....", "no token at all", "e30.e30.e30", "ü.ü.ü", "x" * 20_000])
async def test_garbage_is_refused(tokens: Tokens, token: str) -> None:
    assert await refusal(tokens, token) in {"malformed", "algorithm"}


async def test_token_that_names_no_key_is_refused(tokens: Tokens, provider: Provider) -> None:
    token = jwt.encode({"sub": "dr-grey"}, provider.private["rsa-1"], algorithm="RS256")
    assert await refusal(tokens, token) == "malformed"


async def test_provider_that_is_away_is_no_fault_of_the_token(tokens: Tokens, provider: Provider) -> None:
    provider.answer = lambda: httpx.Response(502)
    with pytest.raises(UnavailableError):
        await tokens.caller_of(provider.token())


async def test_tokens_are_read_where_the_settings_name_an_issuer() -> None:
    assert Tokens.open(Settings()) is None
    tokens = Tokens.open(Settings(oidc_issuer=ISSUER, oidc_audience=AUDIENCE, oidc_jwks_url="https://identity.example/keys"))
    assert tokens is not None
    assert tokens._rules == TokenRules(issuer=ISSUER, audience=AUDIENCE, algorithms=("RS256", "ES256"))
    await tokens.aclose()
