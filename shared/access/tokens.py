"""Tokens of an identity provider: signed JWTs (RFC 7519, RFC 8725) of one issuer, for one audience, by an allow-listed algorithm."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Self

import jwt

from shared.access.caller import EVERY_SCOPE, Caller, Scope
from shared.access.signing_keys import SigningKeys
from shared.errors import UnauthenticatedError
from shared.settings import Settings

# Between the clocks of two machines of one house: a token ends this much later, and begins this much earlier.
CLOCK_SKEW: Final = timedelta(seconds=30)
_REQUIRED_CLAIMS: Final = ("exp", "iss", "aud", "sub")
_SUBJECT: Final = re.compile(r"[\x21-\x7e]{1,200}")

# What PyJWT raises, as the reason and sentence that a caller is told; the first that fits, so the general one comes last.
_REFUSALS: Final[tuple[tuple[type[Exception], str, str], ...]] = (
    (jwt.ExpiredSignatureError, "expired", "The token has expired."),
    (jwt.ImmatureSignatureError, "not-yet-valid", "The token is not valid yet; is the clock right?"),
    (jwt.InvalidAudienceError, "audience", "The token was made for another audience."),
    (jwt.InvalidIssuerError, "issuer", "The token is of another issuer."),
    (jwt.InvalidAlgorithmError, "algorithm", "The token is signed by an algorithm that is not accepted here."),
    (jwt.InvalidSignatureError, "signature", "The token's signature is wrong."),
    (jwt.InvalidKeyError, "signature", "The token's signature is wrong."),
    (jwt.PyJWTError, "malformed", "The token cannot be read, or lacks a claim that is needed."),
)


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must say of itself."""

    issuer: str
    audience: str
    algorithms: tuple[str, ...]


class Tokens:
    """Reads tokens, on one event loop."""

    def __init__(self, rules: TokenRules, keys: SigningKeys) -> None:
        self._rules = rules
        self._keys = keys
        self._jwt = jwt.PyJWT(options={"enforce_minimum_key_length": True, "require": list(_REQUIRED_CLAIMS)})

    @classmethod
    def open(cls, settings: Settings) -> Self | None:
        """Tokens of the issuer in the settings; None where there is none."""
        if not settings.oidc_issuer:
            return None
        rules = TokenRules(issuer=settings.oidc_issuer, audience=settings.oidc_audience, algorithms=settings.signature_algorithms)
        return cls(rules, SigningKeys(settings.oidc_jwks_url))

    async def aclose(self) -> None:
        """Close the connections to the provider."""
        await self._keys.aclose()

    async def caller_of(self, token: str) -> Caller:
        """The person whom a token speaks for; UnauthenticatedError says why there is none, UnavailableError that nobody can tell."""
        with _refusing():
            header = jwt.get_unverified_header(token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in self._rules.algorithms:
            raise UnauthenticatedError("The token is signed by an algorithm that is not accepted here.", reason="algorithm")
        if not isinstance(key_id, str):
            raise UnauthenticatedError("The token does not say by which key it is signed (kid).", reason="malformed")
        key = await self._keys.find(key_id)
        if key is None:
            raise UnauthenticatedError("The token is signed by a key that its issuer does not have.", reason="unknown")
        claims = self._verified(token, key, algorithm)
        if not _SUBJECT.fullmatch(claims["sub"]):
            raise UnauthenticatedError("The token's subject (sub) must be 1 to 200 visible ASCII characters.", reason="malformed")
        return Caller(id=f"person:{claims['sub']}", kind="person", scopes=_scopes(claims))

    def _verified(self, token: str, key: Mapping[str, Any], algorithm: str) -> dict[str, Any]:
        """The claims of a token, once signature, times, issuer and audience hold."""
        with _refusing():
            return self._jwt.decode(
                token,
                jwt.PyJWK(dict(key), algorithm=key.get("alg") or algorithm),
                algorithms=self._rules.algorithms,
                issuer=self._rules.issuer,
                audience=self._rules.audience,
                leeway=CLOCK_SKEW,
            )


@contextmanager
def _refusing() -> Iterator[None]:
    """Say in Lethe's words why a token is refused; PyJWT's own may quote it."""
    try:
        yield
    except jwt.PyJWTError as error:
        reason, message = next((reason, message) for kind, reason, message in _REFUSALS if isinstance(error, kind))
        raise UnauthenticatedError(message, reason=reason) from None


def _scopes(claims: Mapping[str, Any]) -> frozenset[Scope]:
    """Those of Lethe's scopes that the provider gave: words of `scope` (RFC 9068), or of `scp`, which some providers write."""
    given = claims.get("scope", claims.get("scp", ""))
    words = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
    return frozenset(scope for scope in EVERY_SCOPE if scope in words)
