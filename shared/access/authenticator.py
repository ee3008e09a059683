"""From the Authorization header to the caller: API keys and tokens, remembered for seconds so that requests stay fast."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Self

from shared.access.caller import Caller
from shared.access.key_records import KeyRecords
from shared.access.tokens import Tokens
from shared.database import Database
from shared.errors import UnauthenticatedError
from shared.settings import Settings

# How long a key that was found good is believed without asking the database; so long may a revoked one still open.
BELIEVED_SECONDS: Final = 10.0
# Threads of their own: who floods a service with made-up keys holds up look-ups, and nothing else that runs on threads.
_LOOKUPS_AT_ONCE: Final = 4
_KEY_START: Final = "lethe_"


class Authenticator:
    """Finds out who calls, on one event loop."""

    def __init__(self, keys: KeyRecords, tokens: Tokens | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._tokens = tokens
        self._clock = clock
        # By the keyed hash of a key: when it was looked up, and the look-up. Refused keys are forgotten at once.
        self._lookups: dict[bytes, tuple[float, asyncio.Future[Caller]]] = {}
        self._threads = ThreadPoolExecutor(_LOOKUPS_AT_ONCE, thread_name_prefix="access")

    @classmethod
    def open(cls, settings: Settings, database: Database) -> Self:
        """API keys in this database, and tokens where the settings name an issuer."""
        return cls(KeyRecords.of(settings, database), Tokens.open(settings))

    async def aclose(self) -> None:
        """Close the connections to the identity provider; a look-up under way is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._tokens is not None:
            await self._tokens.aclose()

    async def caller_of(self, authorization: str | None) -> Caller:
        """The caller who shows this header; UnauthenticatedError says why there is none, UnavailableError that nobody can tell."""
        if authorization is None:
            raise UnauthenticatedError("Show an API key or a token: Authorization: Bearer ….", reason="missing")
        scheme, _, credential = authorization.strip().partition(" ")
        credential = credential.strip()
        if scheme.lower() != "bearer" or not credential.isascii():
            raise UnauthenticatedError("The Authorization header must read: Bearer, a space, an API key or a token.", reason="malformed")
        if self._tokens is None or credential.startswith(_KEY_START):
            return await self._holder_of(credential)
        return await self._tokens.caller_of(credential)

    async def _holder_of(self, key: str) -> Caller:
        """The caller of an API key; requests that show the same one share a look-up."""
        digest = self._keys.hash_of(key)
        looked_up, lookup = self._lookups.get(digest, (0.0, None))
        if lookup is None or self._clock() - looked_up >= BELIEVED_SECONDS:
            lookup = asyncio.get_running_loop().run_in_executor(self._threads, self._keys.caller_of, key)
            lookup.add_done_callback(lambda done: self._forget_if_refused(digest, done))
            self._lookups[digest] = (self._clock(), lookup)
        return await asyncio.shield(lookup)

    def _forget_if_refused(self, digest: bytes, lookup: asyncio.Future[Caller]) -> None:
        """Keep nothing of a look-up that found no caller, so that made-up keys fill no memory."""
        if lookup.cancelled() or lookup.exception() is not None:
            self._lookups.pop(digest, None)
