"""A store that is asked again while it is away: what took hours to make must not be lost to a minute of silence."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar

from shared.errors import UnavailableError
from shared.storage.object_store import Listing, Names, ObjectInfo, ObjectStore
from shared.telemetry import get_logger

STORE_PATIENCE: Final = timedelta(minutes=10)  # how long a store may be away where a job reads or commits, before the job fails
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 2.0  # also how late `check` is heard

AnswerT = TypeVar("AnswerT")

_LOG = get_logger(__name__)


class PatientStore:
    """An ObjectStore that repeats each operation until the store answers or `limit` is over; `check` may raise to stop the waiting.

    A write that was repeated may meet itself: with `if_absent`, AlreadyExistsError then tells of one's own object.
    """

    def __init__(self, store: ObjectStore, *, limit: timedelta, check: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._limit = limit
        self._check = check

    def put(self, *, key: str, data: bytes, if_absent: bool = False) -> ObjectInfo:
        """Write an object whole or not at all."""
        return self._patiently(lambda: self._store.put(key=key, data=data, if_absent=if_absent))

    def put_file(self, *, key: str, path: Path) -> ObjectInfo:
        """Write a local file's content, streamed."""
        return self._patiently(lambda: self._store.put_file(key=key, path=path))

    def get(self, *, key: str) -> bytes:
        """Read an object."""
        return self._patiently(lambda: self._store.get(key=key))

    def get_file(self, *, key: str, path: Path) -> ObjectInfo:
        """Stream an object into a local file."""
        return self._patiently(lambda: self._store.get_file(key=key, path=path))

    def stat(self, *, key: str) -> ObjectInfo:
        """Look an object up without reading it."""
        return self._patiently(lambda: self._store.stat(key=key))

    def exists(self, *, key: str) -> bool:
        """Whether the key is taken."""
        return self._patiently(lambda: self._store.exists(key=key))

    def list(self, *, prefix: str, start_after: str = "", limit: int = 1000) -> Listing:
        """List objects by key."""
        return self._patiently(lambda: self._store.list(prefix=prefix, start_after=start_after, limit=limit))

    def list_kept(self, *, prefix: str, start_after: str = "", limit: int = 1000) -> Names:
        """List keys, of hidden objects too."""
        return self._patiently(lambda: self._store.list_kept(prefix=prefix, start_after=start_after, limit=limit))

    def list_folders(self, *, prefix: str) -> Names:
        """List the names of the folders directly below `prefix`."""
        return self._patiently(lambda: self._store.list_folders(prefix=prefix))

    def delete(self, *, key: str) -> None:
        """Remove an object."""
        self._patiently(lambda: self._store.delete(key=key))

    def probe(self) -> dict[str, bool]:
        """Try what the store can do."""
        return self._patiently(self._store.probe)

    def close(self) -> None:
        """Let go of connections."""
        self._store.close()

    def _patiently(self, ask: Callable[[], AnswerT]) -> AnswerT:
        """Ask, with pauses that grow, until there is an answer."""
        deadline = time.monotonic() + self._limit.total_seconds()
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return ask()
            except UnavailableError as error:
                if time.monotonic() + pause > deadline:
                    raise
                _LOG.warning("store away, asked again", pause_seconds=pause, reason=str(error))
            time.sleep(pause)
            self._check()
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
