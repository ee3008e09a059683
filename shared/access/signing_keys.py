"""The public keys of an identity provider (JWKS, RFC 7517): read when first needed, kept, and read again when one is not among them."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from shared.errors import UnavailableError
from shared.telemetry import get_logger

# Keys older than this are read again, beside the requests that they still serve: so long is a key believed that was withdrawn.
FRESH_SECONDS: Final = 3600.0
# Made-up key ids must not make this process hammer the provider.
REFETCH_SECONDS: Final = 30.0
# So long are keys believed while the provider does not answer.
STALE_SECONDS: Final = 24 * 3600.0
_TIMEOUT_SECONDS: Final = 5.0
_MAX_BYTES: Final = 1_048_576
# Public keys only: with a shared secret ("oct") whoever verifies could also sign.
_PUBLIC_TYPES: Final = frozenset({"RSA", "EC", "OKP"})

_LOG = get_logger(__name__)


class SigningKeys:
    """The keys behind one URL, of one event loop; requests that need the same answer share one question."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic, transport: httpx.AsyncBaseTransport | None = None) -> None:
        # The system's trust store, which a hospital's own authority can be added to (or be named to by SSL_CERT_FILE).
        trust = ssl.create_default_context() if urlsplit(url).scheme == "https" else False
        self._url = url
        self._clock = clock
        self._http = httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, verify=trust, transport=transport, trust_env=False)
        self._keys: Mapping[str, Mapping[str, Any]] = {}
        self._read_at: float | None = None
        self._asked_at: float | None = None
        self._asking: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        if self._asking is not None:
            self._asking.cancel()
        await self._http.aclose()

    async def find(self, key_id: str) -> Mapping[str, Any] | None:
        """The key of this id; None where the provider has none. UnavailableError when nothing believable can be read."""
        if key_id not in self._keys or self._age() >= FRESH_SECONDS:
            self._ask_anew()
        if self._asking is not None and (key_id not in self._keys or self._age() >= STALE_SECONDS):
            await asyncio.shield(self._asking)  # others wait for the same answer
        if self._age() >= STALE_SECONDS:
            raise UnavailableError("The identity provider does not answer; tokens cannot be verified now.")
        return self._keys.get(key_id)

    def _age(self) -> float:
        """Seconds since the keys were read."""
        return float("inf") if self._read_at is None else self._clock() - self._read_at

    def _ask_anew(self) -> None:
        """Begin to ask the provider, unless that was done a moment ago."""
        if self._asked_at is None or self._clock() - self._asked_at >= REFETCH_SECONDS:
            self._asked_at = self._clock()
            self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        """Read the keys; those read before stay when that fails."""
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                keys = _public_keys(json.loads(await self._fetch()))
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            _LOG.warning("the identity provider's keys cannot be read", exc_info=error)
            return
        self._keys, self._read_at = keys, self._clock()

    async def _fetch(self) -> bytes:
        """What is at the URL, of a bounded size."""
        body = bytearray()
        async with self._http.stream("GET", self._url) as response:
            response.raise_for_status()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise ValueError(f"the key set is larger than {_MAX_BYTES} bytes")
        return bytes(body)


def _public_keys(document: Any) -> dict[str, Mapping[str, Any]]:
    """The keys of a set that may sign, by id; ValueError for what is no key set."""
    found = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise ValueError("the identity provider answered no key set")  # noqa: TRY004 - what was read is wrong, not what calls
    keys = [key for key in found if isinstance(key, dict)]
    return {key["kid"]: key for key in keys if isinstance(key.get("kid"), str) and _may_sign(key)}


def _may_sign(key: Mapping[str, Any]) -> bool:
    """Whether a key is public and made for signatures."""
    return key.get("kty") in _PUBLIC_TYPES and key.get("use", "sig") == "sig"
