"""What holds of every executor: child processes of this machine, and nodes of a Ray cluster."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from shared.errors import JobCancelledError, SaturatedError, UnavailableError
from shared.jobs.executor import EXIT_INTERRUPTED, Capacity, Executor

if TYPE_CHECKING:
    from shared.jobs.records import JobStore
    from tests.shared.jobs.conftest import Arena

Eventually = Callable[[Callable[[], object]], None]


@pytest.fixture(params=["process", pytest.param("ray", marks=pytest.mark.server)])
def arena(request: pytest.FixtureRequest) -> Arena:
    made: Arena = request.getfixturevalue(f"{request.param}_arena")
    return made


@pytest.fixture
def executor(arena: Arena) -> Iterator[Executor]:
    """An executor of two slots that holds no job after the test."""
    made = arena.lend()
    yield made
    assert made.capacity() == Capacity(slots=2, busy=0)


def exit_of(executor: Executor, job_id: str, seconds: float = 60) -> int:
    deadline = time.monotonic() + seconds
    while (code := executor.poll(job_id)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return code


def test_job_runs_and_frees_its_slot(arena: Arena, executor: Executor) -> None:
    job_id = arena.queue("quick")
    assert executor.submit(job_id) == 0
    assert executor.capacity() == Capacity(slots=2, busy=1)
    assert executor.capacity().free == 1
    assert exit_of(executor, job_id) == 0
    assert arena.store.get(job_id).state == "succeeded"


def test_no_free_slot_is_refused_and_the_lowest_free_one_is_taken(arena: Arena, executor: Executor) -> None:
    first, second, third, fourth = (arena.queue(kind) for kind in ("steps", "steps", "quick", "quick"))
    assert [executor.submit(first), executor.submit(second)] == [0, 1]
    with pytest.raises(SaturatedError):
        executor.submit(third)
    executor.cancel(first, grace=timedelta(0))
    exit_of(executor, first)
    assert executor.submit(fourth) == 0
    assert exit_of(executor, fourth) == 0
    executor.cancel(second, grace=timedelta(0))
    exit_of(executor, second)


def test_cancel_interrupts_a_listening_job(arena: Arena, executor: Executor, eventually: Eventually) -> None:
    job_id = arena.start(executor, "steps")
    eventually(arena.mark(job_id).exists)
    executor.cancel(job_id, grace=timedelta(seconds=30))
    assert exit_of(executor, job_id) == EXIT_INTERRUPTED
    assert arena.store.get(job_id).state == "running"


def test_deaf_job_is_killed_after_the_grace(arena: Arena, executor: Executor, eventually: Eventually) -> None:
    job_id = arena.start(executor, "stubborn")
    eventually(arena.mark(job_id).exists)
    executor.cancel(job_id, grace=timedelta(seconds=0.3))
    assert executor.poll(job_id) is None
    assert exit_of(executor, job_id) == -signal.SIGKILL


def test_job_that_kills_itself_is_told_by_its_code(arena: Arena, executor: Executor) -> None:
    assert exit_of(executor, arena.start(executor, "dies")) == -signal.SIGKILL


def test_what_a_job_started_dies_with_it(arena: Arena, executor: Executor, eventually: Eventually, alive: Callable[[int], bool]) -> None:
    job_id = arena.start(executor, "with_grandchild")
    assert exit_of(executor, job_id) == 0
    pid = int(arena.mark(job_id, "grandchild").read_text(encoding="utf-8"))
    eventually(lambda: not alive(pid))


def test_cancel_of_a_job_that_ended_is_harmless(executor: Executor) -> None:
    executor.cancel("job_9", grace=timedelta(0))


def test_map_runs_every_job_once_and_no_more_than_fit(arena: Arena, executor: Executor) -> None:
    job_ids = [arena.queue(kind) for kind in ("alone", "dies", "alone", "alone")]
    seen = []
    for job_id, code in executor.map(job_ids):
        assert executor.capacity().busy <= 1
        seen.append((job_id, code))
    assert sorted(seen) == sorted((job_id, -signal.SIGKILL if job_id == job_ids[1] else 0) for job_id in job_ids)
    assert [arena.store.get(job_id).result for job_id in job_ids] == [{"attempt": 1}, None, {"attempt": 1}, {"attempt": 1}]


def test_map_that_nobody_listens_to_ends_what_it_started(arena: Arena, executor: Executor) -> None:
    job_ids = [arena.queue(kind) for kind in ("quick", "steps", "quick")]
    outcomes = executor.map(job_ids)
    assert next(outcomes) == (job_ids[0], 0)
    outcomes.close()
    assert executor.capacity().busy == 0
    assert arena.store.get(job_ids[1]).state == "running"
    assert arena.store.get(job_ids[2]).result is None


def test_map_runs_as_many_at_once_as_asked_and_tells_between(arena: Arena, executor: Executor) -> None:
    job_ids = [arena.queue("alone") for _ in range(3)]
    seen: list[set[str]] = []
    outcomes = list(executor.map(job_ids, at_once=1, between=lambda running: seen.append(set(running))))
    assert outcomes == [(job_id, 0) for job_id in job_ids]
    assert max(map(len, seen)) == 1
    assert [{job_id} in seen for job_id in job_ids] == [True] * 3


def test_map_that_is_stopped_in_between_ends_what_runs(arena: Arena, executor: Executor) -> None:
    job_ids = [arena.queue("steps"), arena.queue("steps"), arena.queue("quick")]

    def stop(running: Collection[str]) -> None:
        if arena.mark(job_ids[0]).exists():
            assert running == set(job_ids[:2])
            raise JobCancelledError

    with pytest.raises(JobCancelledError):
        list(executor.map(job_ids, between=stop))
    assert executor.capacity().busy == 0
    assert [arena.store.get(job_id).state for job_id in job_ids] == ["running"] * 3


def test_map_asks_for_a_job_only_when_there_is_a_place_for_it(arena: Arena, executor: Executor) -> None:
    ended: list[str] = []
    known: list[int] = []

    def wanted() -> Iterator[str]:
        for _ in range(3):
            known.append(len(ended))
            yield arena.queue("quick")

    for job_id, _code in executor.map(wanted(), at_once=1):
        ended.append(job_id)
    assert known == [0, 1, 2]


def test_map_waits_for_an_executor_that_is_away(executors: Callable[..., Executor], store: JobStore) -> None:
    executor = executors(1)
    store.create(job_id="job_1", kind="quick", spec={})
    store.claim(kinds=["quick"], owner="test")
    capacity = executor.capacity
    with mock.patch.object(executor, "capacity", side_effect=[UnavailableError, UnavailableError, capacity(), capacity()]) as asked:
        assert list(executor.map(["job_1"])) == [("job_1", 0)]
    assert asked.call_count == 4  # the last time for a job that may follow


def test_close_ends_all_jobs(arena: Arena, eventually: Eventually, alive: Callable[[int], bool]) -> None:
    executor = arena.make()
    listening, deaf = arena.start(executor, "steps"), arena.start(executor, "stubborn")
    marks = [arena.mark(listening), arena.mark(deaf)]
    for note in marks:
        eventually(note.exists)
    assert executor.close(grace=timedelta(seconds=4)) == {listening: EXIT_INTERRUPTED, deaf: -signal.SIGKILL}
    assert [alive(int(note.read_text(encoding="utf-8"))) for note in marks] == [False, False]
