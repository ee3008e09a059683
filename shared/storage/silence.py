"""A server that accepts a request and then says nothing, as one does that has no room left: waited for once, and by one at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import urllib3

from shared.errors import UnavailableError


def is_silence(error: BaseException) -> bool:
    """Whether the server took a connection and then let the time run out, while it was sent to or asked."""
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return any(isinstance(reason, TimeoutError) for reason in error.args)
    return isinstance(error, urllib3.exceptions.ReadTimeoutError | httpx.ReadTimeout | httpx.WriteTimeout)


class SilentWrites:
    """Lets writes through, all at once while the server answers them; after silence one alone, and the others are told at once.

    Otherwise every caller would wait the whole time in vain, and whoever waits holds a thread that others need for reading.
    """

    def __init__(self) -> None:
        self.silent = False
        self._trial = threading.Lock()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Write within this block; UnavailableError while another one finds out whether the server is still silent."""
        with self._turn():
            try:
                yield
            except Exception as error:
                self.silent = is_silence(error)
                raise
            self.silent = False

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One at a time, or not at all, while there is silence."""
        if not self.silent:
            yield
            return
        if not self._trial.acquire(blocking=False):
            raise UnavailableError("The object store takes no writes at present; is it full?")
        try:
            yield
        finally:
            self._trial.release()
