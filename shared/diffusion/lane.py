"""The one thread on which a service's tensor work runs, with a bounded queue before it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from shared.diffusion.waiting import MAX_WAITING, refusal
from shared.errors import JobCancelledError, UnavailableError

ResultT = TypeVar("ResultT")

# Set once nobody waits any more for the work in whose context it is read.
_ABANDONED: ContextVar[threading.Event] = ContextVar("abandoned", default=threading.Event())  # noqa: B039 - never set, only replaced


class ComputeLane:
    """Runs one piece of work at a time off the event loop; two forwards side by side would only slow each other down."""

    def __init__(self, *, max_waiting: int = MAX_WAITING) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._admitted = 0
        self._closed = threading.Event()

    @property
    def is_saturated(self) -> bool:
        """Whether the next piece of work would be refused."""
        return self._admitted > self._max_waiting

    async def run(self, work: Callable[[], ResultT], *, admitted: bool = False) -> ResultT:
        """The result of `work`, once its turn has come; SaturatedError at once when too many wait, but for work that was `admitted`.

        Admitted is what another bounded queue has accepted: who waited there is not refused here.

        The work runs in the caller's context, so that what it logs and asks of others carries the caller's trace. A caller that
        stops waiting (is cancelled) gives its place up only when its work is done, which is at its next look, or was never begun.
        """
        with self._lock:
            if self.is_saturated and not admitted:
                raise refusal(self._max_waiting)
            self._admitted += 1
        abandoned = threading.Event()
        context = copy_context()
        context.run(_ABANDONED.set, abandoned)
        try:
            future = self._thread.submit(context.run, work)
        except RuntimeError:
            self._leave()
            raise
        future.add_done_callback(self._leave)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            abandoned.set()
            raise

    async def turn(self) -> None:
        """Return once all work that waits now is done; this itself takes no place."""
        await asyncio.wrap_future(self._thread.submit(lambda: None))

    def check_wanted(self) -> None:
        """Raise UnavailableError once the lane is closed, JobCancelledError once nobody waits for this work; long work asks often."""
        if _ABANDONED.get().is_set():
            raise JobCancelledError("Nobody waits for this work any more.")
        if self._closed.is_set():
            raise UnavailableError("The service is stopping; send the request again later.")

    def close(self) -> None:
        """Drop what waits, and wait for the work under way, which ends at its next look."""
        self._closed.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _leave(self, _done: Future[Any] | None = None) -> None:
        with self._lock:
            self._admitted -= 1
