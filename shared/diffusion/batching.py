"""Micro-batching: what is asked for at the same time, for the same model and in the same manner, is worked on in one pass."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from shared.diffusion.waiting import MAX_WAITING, WAITING, refusal
from shared.errors import UnavailableError

KeyT = TypeVar("KeyT", bound=Hashable)
ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")

MAX_BATCH: Final = 32  # beyond this a forward pass gets no faster per item on CPU
GATHERING_SECONDS: Final = 0.002  # what a request waits for company where there was some just now; a forward pass takes longer


async def _at_once() -> None:
    """Nothing else is waited for."""


@dataclass(eq=False)
class _Request(Generic[KeyT, ItemT, AnswerT]):
    """One caller's items, its place in the line, and the answers so far."""

    key: KeyT
    items: Sequence[ItemT]
    place: int
    done: asyncio.Future[list[AnswerT]]
    context: Context = field(default_factory=copy_context)
    answers: list[AnswerT] = field(default_factory=list)

    @property
    def left(self) -> Sequence[ItemT]:
        """The items that were not answered yet."""
        return self.items[len(self.answers) :]

    def tell(self, answers: Sequence[AnswerT]) -> None:
        """Keep answers; once all are there the caller gets them."""
        self.answers += answers
        if len(self.answers) == len(self.items) and not self.done.done():
            self.done.set_result(self.answers)

    def fail(self, error: BaseException) -> None:
        """The caller gets the error, if it still waits."""
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(frozen=True)
class _Share(Generic[KeyT, ItemT, AnswerT]):
    """What one request has in a batch."""

    request: _Request[KeyT, ItemT, AnswerT]
    items: Sequence[ItemT]
    answered_before: int


class MicroBatcher(Generic[KeyT, ItemT, AnswerT]):
    """Runs one batch at a time, the oldest request's key first; while it runs, the next one gathers.

    Items of one key are worked on together, one answer each, whoever asked for them. A request of more items than a batch holds
    takes its turns with the others, so that nobody waits for more than one batch of each request before. Work that has room for
    fewer answers the first items only, one at least; the others wait for the next batch. A caller that goes away leaves the batch
    to the others; when it was the last, the work is cancelled.
    """

    def __init__(
        self,
        work: Callable[[KeyT, list[ItemT]], Awaitable[list[AnswerT]]],
        *,
        turn: Callable[[], Awaitable[None]] = _at_once,
        max_batch: Callable[[KeyT], int] = lambda _key: MAX_BATCH,
        max_waiting: int = MAX_WAITING,
        gathering_seconds: float = GATHERING_SECONDS,
    ) -> None:
        """`turn` returns when the device is free for a batch: what arrives until then belongs to it.

        `max_batch` says how many items of a key make a batch: not more than pass at once, for the answers of one batch are handed out
        while the next is worked on.
        """
        self._work = work
        self._turn = turn
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._gathering_seconds = gathering_seconds
        self._queue: deque[_Request[KeyT, ItemT, AnswerT]] = deque()
        self._places = itertools.count()
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
            for request in self._queue:
                request.fail(_stopping())

    @property
    def is_saturated(self) -> bool:
        """Whether the next request would be refused."""
        return len(self._queue) >= self._max_waiting

    async def submit(self, key: KeyT, items: Sequence[ItemT]) -> list[AnswerT]:
        """The answers to the items, once their turn has come; SaturatedError at once when too many requests wait."""
        if self.is_saturated:
            raise refusal(self._max_waiting)
        request = _Request[KeyT, ItemT, AnswerT](key, items, next(self._places), asyncio.get_running_loop().create_future())
        self._queue.append(request)
        self._arrived.set()
        with WAITING.track_inprogress():
            try:
                return await request.done
            except asyncio.CancelledError:
                if request in self._queue:
                    self._queue.remove(request)
                raise

    async def _serve(self) -> None:
        crowded = False  # a caller who is alone gains nothing by waiting for company
        while True:
            await self._arrived.wait()
            if (crowded or len(self._queue) > 1) and not self._is_full():
                await asyncio.sleep(self._gathering_seconds)
            await self._turn()
            batch = self._take()
            if batch:
                await self._run(batch)
            crowded = len(batch) > 1 or bool(self._queue)
            self._put_back(batch)
            if not self._queue:
                self._arrived.clear()

    def _is_full(self) -> bool:
        """Whether a batch's worth of items waits."""
        return bool(self._queue) and sum(len(request.left) for request in self._queue) >= self._max_batch(self._queue[0].key)

    def _take(self) -> list[_Share[KeyT, ItemT, AnswerT]]:
        """As many items of the oldest request's key as fit, in the order of arrival."""
        batch: list[_Share[KeyT, ItemT, AnswerT]] = []
        others: list[_Request[KeyT, ItemT, AnswerT]] = []
        room = 0
        for request in self._queue:
            if request.done.done():
                continue
            if not batch:
                room = self._max_batch(request.key)
            if room and (not batch or request.key == batch[0].request.key):
                batch.append(_Share(request, request.left[:room], len(request.answers)))
                room -= len(batch[-1].items)
            else:
                others.append(request)
        self._queue = deque(others)
        return batch

    def _put_back(self, batch: list[_Share[KeyT, ItemT, AnswerT]]) -> None:
        """Who got a part of its answers goes to the end of the line, who got none back to its place."""
        unfinished = [share for share in batch if not share.request.done.done()]
        for share in unfinished:
            if len(share.request.answers) > share.answered_before:
                share.request.place = next(self._places)
        self._queue = deque(sorted([*self._queue, *(share.request for share in unfinished)], key=lambda request: request.place))

    async def _run(self, batch: list[_Share[KeyT, ItemT, AnswerT]]) -> None:
        """Work on a batch in the context of its oldest request, and part its answers; a failure is told to every caller in it."""
        requests = [share.request for share in batch]
        items = [item for share in batch for item in share.items]
        working = asyncio.create_task(self._answered(requests[0].key, items), context=requests[0].context)

        def give_up(_done: asyncio.Future[list[AnswerT]]) -> None:
            if all(request.done.done() for request in requests):
                working.cancel()

        for request in requests:
            request.done.add_done_callback(give_up)
        try:
            await asyncio.wait({working})
        except asyncio.CancelledError:
            working.cancel()
            for request in requests:
                request.fail(_stopping())
            raise
        _tell(batch, working)

    async def _answered(self, key: KeyT, items: list[ItemT]) -> list[AnswerT]:
        """The work as a coroutine, which a task needs."""
        return await self._work(key, items)


def _tell(batch: list[_Share[KeyT, ItemT, AnswerT]], working: asyncio.Task[list[AnswerT]]) -> None:
    """Part the outcome of a batch among its requests."""
    if working.cancelled():  # nobody waits any more
        return
    error = working.exception()
    start = 0
    for share in batch:
        if error is not None:
            share.request.fail(error)
            continue
        end = start + len(share.items)
        share.request.tell(working.result()[start:end])
        start = end


def _stopping() -> UnavailableError:
    return UnavailableError("The service is stopping; send the request again later.")
