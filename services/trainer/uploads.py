"""Writing to the store beside the training: on one thread, of each thing only the newest, again while the store is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from shared.errors import UnavailableError
from shared.telemetry import get_logger

FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 5.0

_LOG = get_logger(__name__)


class Uploads:
    """Calls what it is offered, in turn, on a thread; nobody waits for it until they ask to.

    Of each name one call is under way at most and one waits; a newer offer takes the place of the waiting one. So a store
    that is slow or away costs a bounded amount of memory, and the training no time.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[str, Callable[[], None]] = {}
        self._working = False
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="uploads", daemon=True)
        self._thread.start()

    def offer(self, name: str, write: Callable[[], None]) -> None:
        """Have something written soon."""
        with self._changed:
            self._waiting[name] = write
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until everything offered is written; False when that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._working, seconds)

    def close(self) -> None:
        """Drop what waits, and wait for what is under way."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        """The thread's loop."""
        pause = FIRST_PAUSE_SECONDS
        while (next_one := self._take()) is not None:
            name, write = next_one
            try:
                write()
            except UnavailableError as error:
                _LOG.warning("store away, written again", what=name, pause_seconds=pause, reason=str(error))
                self._put_back(name, write, pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            except Exception:  # noqa: BLE001 - logged with its trace
                # A training is worth more than one of its checkpoints; the next one may be written.
                _LOG.exception("not written", what=name)
            else:
                pause = FIRST_PAUSE_SECONDS
            with self._changed:
                self._working = False
                self._changed.notify_all()

    def _take(self) -> tuple[str, Callable[[], None]] | None:
        """The next thing to write, once there is one; None when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            name = next(iter(self._waiting))
            self._working = True
            return name, self._waiting.pop(name)

    def _put_back(self, name: str, write: Callable[[], None], pause: float) -> None:
        """Let it wait for another try, unless something newer does; and give the store a moment."""
        deadline = time.monotonic() + pause
        with self._changed:
            if not self._closed:
                self._waiting.setdefault(name, write)
            self._changed.wait_for(lambda: self._closed, max(0.0, deadline - time.monotonic()))
