"""Workers hand out results, and begin nothing new after a failure."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Timer
from typing import Any

import pytest

from benchmarks import workers
from benchmarks.workers import one_thread_workers


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads in the processes' place; what is set for processes is unset again."""
    monkeypatch.setattr(workers, "ProcessPoolExecutor", lambda count, **_rest: ThreadPoolExecutor(count))
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "unset")


def test_results_come_back_and_children_will_have_one_thread() -> None:
    with one_thread_workers(2) as pool:
        assert list(pool.map(abs, (-1, 2))) == [1, 2]
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("1", "PASSIVE")


def test_after_a_failure_nothing_new_begins() -> None:
    goes_on, waiting = Event(), list[Future[Any]]()

    def fail() -> None:
        with one_thread_workers(1) as pool:
            waiting.extend([pool.submit(goes_on.wait, 5), pool.submit(abs, -1)])
            Timer(0.2, goes_on.set).start()
            raise RuntimeError("out of paper")

    with pytest.raises(RuntimeError, match="out of paper"):
        fail()
    assert waiting[0].result() is True
    assert waiting[1].cancelled()
