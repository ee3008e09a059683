"""Silence of a server that was written to: one asks on, the others are told at once, an answer of any kind ends it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import urllib3

from shared.errors import UnavailableError
from shared.storage.silence import SilentWrites, is_silence

PATIENCE_SECONDS = 60
SILENCE = urllib3.exceptions.ReadTimeoutError(urllib3.HTTPConnectionPool("store"), "/", "silent")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SILENCE, True),
        (httpx.ReadTimeout(""), True),
        (httpx.WriteTimeout(""), True),
        (urllib3.exceptions.ProtocolError("Connection aborted.", TimeoutError("the body did not go out")), True),
        (urllib3.exceptions.ProtocolError("Connection aborted.", ConnectionResetError()), False),
        (httpx.ConnectTimeout(""), False),
        (httpx.ReadError(""), False),
        (TimeoutError(), False),
    ],
)
def test_silence_is_a_connection_that_was_taken_and_not_answered(error: Exception, *, expected: bool) -> None:
    assert is_silence(error) is expected


def write(writes: SilentWrites, error: Exception | None = None) -> None:
    with writes.attempt():
        if error is not None:
            raise error


def fall_silent(writes: SilentWrites) -> None:
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        write(writes, SILENCE)


def test_after_silence_one_write_at_a_time_is_let_through() -> None:
    writes, tried, answered = SilentWrites(), threading.Event(), threading.Event()
    fall_silent(writes)

    def try_again() -> None:
        with writes.attempt():
            tried.set()
            assert answered.wait(PATIENCE_SECONDS)

    with ThreadPoolExecutor(1) as other:
        trial = other.submit(try_again)
        assert tried.wait(PATIENCE_SECONDS)
        with pytest.raises(UnavailableError, match="takes no writes at present"):
            write(writes)
        answered.set()
        trial.result()
    write(writes)


def test_before_silence_writes_go_through_beside_one_another() -> None:
    writes = SilentWrites()
    with writes.attempt(), writes.attempt():
        pass


@pytest.mark.parametrize("again", [True, False])
def test_trial_that_fails_leaves_the_next_one_its_turn(*, again: bool) -> None:
    writes = SilentWrites()
    fall_silent(writes)
    error = SILENCE if again else ValueError("an answer")
    with pytest.raises(type(error)):
        write(writes, error)
    with writes.attempt():
        if again:
            with pytest.raises(UnavailableError):
                write(writes)
        else:
            write(writes)
