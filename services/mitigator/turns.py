"""Whose turn it is: some requests are worked on side by side, a bounded number waits, and who comes then is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from shared.diffusion.waiting import MAX_WAITING, WAITING, refusal

AT_ONCE: Final = 8  # requests that share passes; more would only make all of them end late


class Turns:
    """First come, first served."""

    def __init__(self, *, at_once: int = AT_ONCE, max_waiting: int = MAX_WAITING) -> None:
        self._room = asyncio.Semaphore(at_once)
        self._most = at_once + max_waiting
        self._max_waiting = max_waiting
        self._admitted = 0

    @property
    def is_saturated(self) -> bool:
        """Whether the next request would be refused."""
        return self._admitted >= self._most

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """The block runs once it is its turn; SaturatedError at once when too many wait."""
        if self.is_saturated:
            raise refusal(self._max_waiting)
        self._admitted += 1
        try:
            with WAITING.track_inprogress():
                await self._room.acquire()
            try:
                yield
            finally:
                self._room.release()
        finally:
            self._admitted -= 1
