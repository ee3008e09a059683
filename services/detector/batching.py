"""Micro-batching: requests for the same model and settings that arrive together are screened in one pass."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from shared.errors import SaturatedError

KeyT = TypeVar("KeyT", bound=Hashable)
ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")

MAX_BATCH: Final = 32  # beyond this a forward pass gets no faster per prompt on CPU
MAX_WAITING: Final = 64  # refusing early keeps the wait of those already queued bearable
GATHERING_SECONDS: Final = 0.002  # what a lone request waits for company; a forward pass takes longer


@dataclass(frozen=True)
class _Waiting(Generic[KeyT, ItemT, AnswerT]):
    """One request in the queue."""

    key: KeyT
    items: Sequence[ItemT]
    answers: asyncio.Future[list[AnswerT]]


class MicroBatcher(Generic[KeyT, ItemT, AnswerT]):
    """Runs one batch at a time; while it runs, the next one gathers. Items of one key are worked on together, one answer each."""

    def __init__(
        self,
        work: Callable[[KeyT, list[ItemT]], Awaitable[list[AnswerT]]],
        *,
        max_batch: int = MAX_BATCH,
        max_waiting: int = MAX_WAITING,
        gathering_seconds: float = GATHERING_SECONDS,
    ) -> None:
        self._work = work
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._gathering_seconds = gathering_seconds
        self._queue: deque[_Waiting[KeyT, ItemT, AnswerT]] = deque()
        self._arrived = asyncio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[MicroBatcher[KeyT, ItemT, AnswerT]]:
        """Run batches while the block lasts."""
        task = asyncio.create_task(self._serve(), name="micro-batches")
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            for waiting in self._queue:
                waiting.answers.cancel()

    @property
    def is_saturated(self) -> bool:
        """Whether the next request would be refused."""
        return len(self._queue) >= self._max_waiting

    async def submit(self, key: KeyT, items: Sequence[ItemT]) -> list[AnswerT]:
        """The answers to the items, once their turn has come; SaturatedError at once when too many requests wait."""
        if self.is_saturated:
            raise SaturatedError(f"{self._max_waiting} requests wait already; try again later.")
        waiting = _Waiting[KeyT, ItemT, AnswerT](key, items, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._arrived.set()
        return await waiting.answers

    async def _serve(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(self._gathering_seconds)
            batch = self._take()
            if not self._queue:
                self._arrived.clear()
            if batch:
                await self._answer(batch)

    def _take(self) -> list[_Waiting[KeyT, ItemT, AnswerT]]:
        """The oldest request and those of its key that fit beside it; callers that went away are dropped."""
        batch: list[_Waiting[KeyT, ItemT, AnswerT]] = []
        left: deque[_Waiting[KeyT, ItemT, AnswerT]] = deque()
        count = 0
        for waiting in self._queue:
            if waiting.answers.done():
                continue
            fits = not batch or (waiting.key == batch[0].key and count + len(waiting.items) <= self._max_batch)
            if fits:
                batch.append(waiting)
                count += len(waiting.items)
            else:
                left.append(waiting)
        self._queue = left
        return batch

    async def _answer(self, batch: list[_Waiting[KeyT, ItemT, AnswerT]]) -> None:
        """Work on a batch and part its answers; a failure of the whole fails every request in it, not the loop."""
        items = [item for waiting in batch for item in waiting.items]
        try:
            answers = await self._work(batch[0].key, items)
        except asyncio.CancelledError:
            for waiting in batch:
                waiting.answers.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - handed to every caller that waits for it
            for waiting in batch:
                if not waiting.answers.done():
                    waiting.answers.set_exception(error)
            return
        start = 0
        for waiting in batch:
            end = start + len(waiting.items)
            if not waiting.answers.done():
                waiting.answers.set_result(answers[start:end])
            start = end
