"""Child processes: fresh, alone in their group, ended when asked, killed when deaf."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from shared.errors import SaturatedError
from shared.jobs.executor import EXIT_INTERRUPTED, Capacity, ProcessExecutor
from shared.jobs.records import JobStore

Executors = Callable[[int], ProcessExecutor]
Eventually = Callable[[Callable[[], object]], None]


def start(store: JobStore, executor: ProcessExecutor, job_id: str, kind: str) -> int:
    """Queue, claim and submit a job, as a runner would."""
    store.create(job_id=job_id, kind=kind, spec={})
    assert store.claim(kinds=[kind], owner="test") is not None
    return executor.submit(job_id)


def mark(home: Path, job_id: str, name: str = "attempt-1") -> Path:
    return home / "marks" / job_id / name


def exit_of(executor: ProcessExecutor, job_id: str, seconds: float = 30) -> int:
    deadline = time.monotonic() + seconds
    while (code := executor.poll(job_id)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return code


def test_child_runs_the_job_and_frees_its_slot(store: JobStore, executors: Executors) -> None:
    executor = executors(2)
    assert start(store, executor, "job_1", "quick") == 0
    assert executor.capacity() == Capacity(slots=2, busy=1)
    assert exit_of(executor, "job_1") == 0
    assert executor.capacity() == Capacity(slots=2, busy=0)
    assert executor.capacity().free == 2
    assert store.get("job_1").state == "succeeded"


def test_no_free_slot_is_refused_and_the_lowest_free_one_is_taken(store: JobStore, executors: Executors) -> None:
    executor = executors(2)
    assert start(store, executor, "job_1", "steps") == 0
    assert start(store, executor, "job_2", "steps") == 1
    with pytest.raises(SaturatedError):
        executor.submit("job_3")
    executor.cancel("job_1", grace=timedelta(0))
    exit_of(executor, "job_1")
    assert start(store, executor, "job_4", "quick") == 0


def test_thread_setting_reaches_the_child(store: JobStore, child_environment: dict[str, str]) -> None:
    executor = ProcessExecutor(worker_module="tests.shared.jobs.fake_worker", slots=1, torch_threads=3, environment=child_environment)
    start(store, executor, "job_1", "quick")
    exit_of(executor, "job_1")
    result = store.get("job_1").result
    assert result == {"attempt": 1, "threads": "3"}


def test_cancel_interrupts_a_listening_job(store: JobStore, executors: Executors, eventually: Eventually, tmp_path: Path) -> None:
    executor = executors(1)
    start(store, executor, "job_1", "steps")
    eventually(mark(tmp_path, "job_1").exists)
    executor.cancel("job_1", grace=timedelta(seconds=30))
    assert exit_of(executor, "job_1") == EXIT_INTERRUPTED
    assert store.get("job_1").state == "running"


def test_deaf_job_is_killed_after_the_grace(store: JobStore, executors: Executors, eventually: Eventually, tmp_path: Path) -> None:
    executor = executors(1)
    start(store, executor, "job_1", "stubborn")
    eventually(mark(tmp_path, "job_1").exists)
    executor.cancel("job_1", grace=timedelta(seconds=0.3))
    assert executor.poll("job_1") is None
    assert exit_of(executor, "job_1") == -signal.SIGKILL


def test_what_a_job_started_dies_with_it(
    store: JobStore, executors: Executors, eventually: Eventually, alive: Callable[[int], bool], tmp_path: Path
) -> None:
    executor = executors(1)
    start(store, executor, "job_1", "with_grandchild")
    assert exit_of(executor, "job_1") == 0
    pid = int(mark(tmp_path, "job_1", "grandchild").read_text(encoding="utf-8"))
    eventually(lambda: not alive(pid))


def test_close_ends_all_children(
    store: JobStore, executors: Executors, eventually: Eventually, alive: Callable[[int], bool], tmp_path: Path
) -> None:
    executor = executors(2)
    start(store, executor, "job_1", "steps")
    start(store, executor, "job_2", "stubborn")
    marks = [mark(tmp_path, "job_1"), mark(tmp_path, "job_2")]
    for note in marks:
        eventually(note.exists)
    assert executor.close(grace=timedelta(seconds=1)) == {"job_1": EXIT_INTERRUPTED, "job_2": -signal.SIGKILL}
    assert [alive(int(note.read_text(encoding="utf-8"))) for note in marks] == [False, False]


def test_cancel_of_a_job_that_ended_is_harmless(executors: Executors) -> None:
    executors(1).cancel("job_9", grace=timedelta(0))
