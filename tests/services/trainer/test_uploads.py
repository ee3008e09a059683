"""Uploads beside the training: the newest of each, again while the store is away, never in the way."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
import structlog

from services.trainer import uploads as uploads_module
from services.trainer.uploads import Uploads
from shared.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Uploads]:
    monkeypatch.setattr(uploads_module, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(uploads_module, "LONGEST_PAUSE_SECONDS", 0.02)
    made = Uploads()
    yield made
    made.close()


def test_what_is_offered_is_written_on_another_thread(uploads: Uploads) -> None:
    threads: list[int] = []
    uploads.offer("a", lambda: threads.append(threading.get_ident()))
    assert uploads.wait(5)
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


def test_slow_store_holds_nobody_up_and_only_the_newest_waits(uploads: Uploads) -> None:
    gate, started = threading.Event(), threading.Event()
    written: list[int] = []

    def write(number: int) -> None:
        started.set()
        gate.wait(10)
        written.append(number)

    uploads.offer("checkpoint", lambda: write(0))
    started.wait(10)
    began = time.monotonic()
    for number in range(1, 50):
        uploads.offer("checkpoint", lambda number=number: write(number))
    assert time.monotonic() - began < 0.5
    assert not uploads.wait(0.05)
    gate.set()
    assert uploads.wait(5)
    assert written == [0, 49]


def test_things_of_different_names_all_arrive(uploads: Uploads) -> None:
    written: list[str] = []
    for name in ("checkpoint", "losses", "strip-10", "strip-20"):
        uploads.offer(name, lambda name=name: written.append(name))
    assert uploads.wait(5)
    assert sorted(written) == ["checkpoint", "losses", "strip-10", "strip-20"]


def test_store_that_is_away_is_asked_again(uploads: Uploads) -> None:
    tries: list[int] = []

    def write() -> None:
        tries.append(1)
        if len(tries) < 4:
            raise UnavailableError("away")

    with structlog.testing.capture_logs() as logs:
        uploads.offer("checkpoint", write)
        assert uploads.wait(5)
    assert len(tries) == 4
    assert [line["event"] for line in logs] == ["store away, written again"] * 3


def test_newer_checkpoint_replaces_one_that_could_not_be_written(uploads: Uploads) -> None:
    away = threading.Event()
    away.set()
    written: list[int] = []

    def write(number: int) -> None:
        if away.is_set():
            raise UnavailableError("away")
        written.append(number)

    uploads.offer("checkpoint", lambda: write(1))
    time.sleep(0.05)
    uploads.offer("checkpoint", lambda: write(2))
    away.clear()
    assert uploads.wait(5)
    assert written == [2]


def test_defect_in_one_write_is_logged_and_the_next_is_written(uploads: Uploads) -> None:
    written: list[int] = []
    with structlog.testing.capture_logs() as logs:
        uploads.offer("checkpoint", lambda: written.append(1 // 0))
        assert uploads.wait(5)
    uploads.offer("checkpoint", lambda: written.append(2))
    assert uploads.wait(5)
    assert written == [2]
    assert [(line["event"], line["what"]) for line in logs] == [("not written", "checkpoint")]


def test_closing_drops_what_waits_and_ends_the_thread(uploads: Uploads) -> None:
    def away() -> None:
        raise UnavailableError("away")

    uploads.offer("checkpoint", away)
    time.sleep(0.03)
    uploads.close()
    assert uploads.wait(0)
    assert not uploads._thread.is_alive()
