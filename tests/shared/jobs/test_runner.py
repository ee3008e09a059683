"""Runners: jobs end, whatever dies on the way, and never run twice at a time."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

import pytest
from prometheus_client import REGISTRY

from shared.errors import UnavailableError
from shared.jobs import runner as runner_module
from shared.jobs.executor import Capacity
from shared.jobs.process_executor import ProcessExecutor
from shared.jobs.records import Job, JobStore
from shared.jobs.runner import JobRunner

pytestmark = pytest.mark.anyio
Executors = Callable[[int], ProcessExecutor]
KINDS = ["quick", "steps", "dies", "stubborn"]


def make_runner(store: JobStore, executor: ProcessExecutor) -> JobRunner:
    return JobRunner(store=store, executor=executor, kinds=KINDS)


async def until(condition: Callable[[], object], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


def settled(store: JobStore, job_id: str) -> Callable[[], bool]:
    return lambda: store.get(job_id).is_settled


def pid_of(home: Path, job_id: str, attempt: int = 1) -> int:
    return int((home / "marks" / job_id / f"attempt-{attempt}").read_text(encoding="utf-8"))


def attempts(home: Path, job_id: str) -> list[str]:
    return sorted(path.name for path in (home / "marks" / job_id).iterdir())


def total(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_outcomes_and_losses_are_shown_from_zero(store: JobStore, executors: Executors) -> None:
    JobRunner(store=store, executor=executors(1), kinds=["never-run"])
    outcomes = ("succeeded", "failed", "cancelled")
    shown = [
        REGISTRY.get_sample_value("lethe_job_duration_seconds_count", {"kind": "never-run", "outcome": outcome}) for outcome in outcomes
    ]
    assert shown == [0, 0, 0]
    assert REGISTRY.get_sample_value("lethe_jobs_reclaimed_total", {"kind": "never-run"}) == 0


async def test_queued_job_runs_and_is_counted(store: JobStore, executors: Executors) -> None:
    done = total("lethe_job_duration_seconds_count", kind="quick", outcome="succeeded")
    async with make_runner(store, executors(1)).serving() as runner:
        store.create(job_id="job_1", kind="quick", spec={})
        runner.wake()
        await until(settled(store, "job_1"))
        await until(lambda: total("lethe_job_duration_seconds_count", kind="quick", outcome="succeeded") == done + 1)
        await until(lambda: total("lethe_jobs", kind="quick", state="succeeded") == 1)
        assert total("lethe_executor_slots", executor="process", state="free") == 1
        assert runner.not_ready() == []
    assert store.get("job_1").result == {"attempt": 1, "threads": "1"}


async def test_jobs_of_other_kinds_are_left_to_others(store: JobStore, executors: Executors) -> None:
    store.create(job_id="job_other", kind="refused", spec={})
    store.create(job_id="job_1", kind="quick", spec={})
    async with make_runner(store, executors(1)).serving():
        await until(settled(store, "job_1"))
    assert store.get("job_other").state == "queued"


async def test_killed_child_is_run_again_and_succeeds(store: JobStore, executors: Executors, tmp_path: Path) -> None:
    reclaimed = total("lethe_jobs_reclaimed_total", kind="steps")
    store.create(job_id="job_1", kind="steps", spec={"steps": 40})
    async with make_runner(store, executors(1)).serving():
        await until(lambda: store.get("job_1").step > 0)
        os.kill(pid_of(tmp_path, "job_1"), signal.SIGKILL)
        await until(settled(store, "job_1"))
    job = store.get("job_1")
    assert (job.state, job.attempt, job.losses, job.result) == ("succeeded", 2, 1, {"steps": 40})
    assert total("lethe_jobs_reclaimed_total", kind="steps") == reclaimed + 1


async def test_child_that_dies_each_time_fails_after_three_attempts(store: JobStore, executors: Executors, tmp_path: Path) -> None:
    store.create(job_id="job_1", kind="dies", spec={})
    async with make_runner(store, executors(1)).serving():
        await until(settled(store, "job_1"))
    job = store.get("job_1")
    assert (job.state, job.attempt, job.losses) == ("failed", 3, 3)
    assert job.problem is not None
    assert job.problem["type"] == "urn:lethe:problem:internal"
    assert "3 times" in job.problem["detail"]
    assert attempts(tmp_path, "job_1") == ["attempt-1", "attempt-2", "attempt-3"]


async def test_cancel_of_a_running_job_stops_it(store: JobStore, executors: Executors) -> None:
    store.create(job_id="job_1", kind="steps", spec={})
    async with make_runner(store, executors(1)).serving() as runner:
        await until(lambda: store.get("job_1").step > 0)
        store.request_cancel("job_1")
        await until(settled(store, "job_1"), 10)
        await until(lambda: not runner._running)
    assert store.get("job_1").state == "cancelled"


async def test_cancel_running_job_stops_within_one_step(store: JobStore, executors: Executors) -> None:
    store.create(job_id="job_1", kind="steps", spec={"seconds": 1.0})
    async with make_runner(store, executors(1)).serving():
        await until(lambda: store.get("job_1").step >= 2)
        step = store.request_cancel("job_1").step
        await until(settled(store, "job_1"), 10)
    assert store.get("job_1").state == "cancelled"
    assert step <= store.get("job_1").step <= step + 1


async def test_cancel_of_a_deaf_job_ends_its_process(
    store: JobStore, executors: Executors, tmp_path: Path, alive: Callable[[int], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "CANCEL_GRACE", timedelta(seconds=0.5))
    monkeypatch.setattr(runner_module, "STOP_GRACE", timedelta(seconds=0.5))
    store.create(job_id="job_1", kind="stubborn", spec={})
    async with make_runner(store, executors(1)).serving():
        await until((tmp_path / "marks" / "job_1" / "attempt-1").exists)
        store.request_cancel("job_1")
        await until(settled(store, "job_1"))
    assert store.get("job_1").state == "cancelled"
    assert not alive(pid_of(tmp_path, "job_1"))


async def test_cancel_queued_job_leaves_running_job(store: JobStore, executors: Executors) -> None:
    store.create(job_id="job_1", kind="steps", spec={"steps": 60})
    store.create(job_id="job_2", kind="steps", spec={"steps": 60})
    async with make_runner(store, executors(1)).serving():
        await until(lambda: store.get("job_1").step > 0)
        assert store.request_cancel("job_2").state == "cancelled"
        await until(settled(store, "job_1"))
    assert (store.get("job_1").state, store.get("job_1").attempt) == ("succeeded", 1)
    assert (store.get("job_2").state, store.get("job_2").attempt) == ("cancelled", 0)


async def test_graceful_stop_puts_the_job_back_and_the_next_start_finishes_it(
    store: JobStore, executors: Executors, tmp_path: Path, alive: Callable[[int], bool]
) -> None:
    store.create(job_id="job_1", kind="steps", spec={"steps": 60})
    async with make_runner(store, executors(1)).serving():
        await until(lambda: store.get("job_1").step > 0)
    job = store.get("job_1")
    assert (job.state, job.losses, job.lease_owner) == ("queued", 0, None)
    assert not alive(pid_of(tmp_path, "job_1"))
    async with make_runner(store, executors(1)).serving():
        await until(settled(store, "job_1"))
    assert (store.get("job_1").state, store.get("job_1").attempt) == ("succeeded", 2)


async def test_killed_service_loses_no_job_and_leaves_no_child(
    store: JobStore, executors: Executors, child_environment: dict[str, str], tmp_path: Path, alive: Callable[[int], bool]
) -> None:
    store.create(job_id="job_1", kind="steps", spec={"steps": 60})
    service = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.shared.jobs.fake_service", env=os.environ | child_environment
    )
    try:
        await until(lambda: store.get("job_1").step > 0)
    finally:
        service.kill()
        await service.wait()
    child = pid_of(tmp_path, "job_1")
    await until(lambda: not alive(child), 5)
    assert store.get("job_1").state == "running"
    async with make_runner(store, executors(1)).serving():
        await until(settled(store, "job_1"), 25)  # sooner than its lease would run out
    job = store.get("job_1")
    assert (job.state, job.attempt, job.losses) == ("succeeded", 2, 1)


async def test_two_runners_never_run_one_job_twice(store: JobStore, executors: Executors, tmp_path: Path) -> None:
    other = JobStore(f"sqlite:///{tmp_path / 'lethe.db'}")
    names = [f"job_{number}" for number in range(6)]
    for name in names:
        store.create(job_id=name, kind="quick", spec={})
    async with make_runner(store, executors(1)).serving(), make_runner(other, executors(1)).serving():
        await until(lambda: all(store.get(name).is_settled for name in names), 60)
    other.close()
    assert [store.get(name).attempt for name in names] == [1] * 6
    assert [attempts(tmp_path, name) for name in names] == [["attempt-1"]] * 6


async def test_job_taken_over_elsewhere_is_dropped_here(
    store: JobStore, executors: Executors, tmp_path: Path, alive: Callable[[int], bool]
) -> None:
    store.create(job_id="job_1", kind="steps", spec={})
    async with make_runner(store, executors(1)).serving() as runner:
        await until(lambda: store.get("job_1").step > 0)
        child = pid_of(tmp_path, "job_1")
        with store._database.writing() as connection:
            connection.exec_driver_sql("UPDATE jobs SET lease_owner = 'elsewhere', attempt = 2")
        await until(lambda: not runner._running)
        assert not alive(child)
    job = store.get("job_1")
    assert (job.state, job.lease_owner, job.attempt) == ("running", "elsewhere", 2)


async def test_training_figures_become_metrics(store: JobStore, executors: Executors) -> None:
    seen = total("lethe_training_step_seconds_count", slot="0")
    store.create(job_id="job_1", kind="steps", spec={"steps": 100_000})
    async with make_runner(store, executors(1)).serving():
        await until(lambda: 0 < total("lethe_training_loss", slot="0") <= 1)
        await until(lambda: total("lethe_training_step_seconds_count", slot="0") > seen)
        store.request_cancel("job_1")
        await until(settled(store, "job_1"))
        await until(lambda: total("lethe_training_loss", slot="0") == 0)  # what ended is shown no more


async def test_database_that_is_away_shows_in_readiness_and_comes_back(
    store: JobStore, executors: Executors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(**_values: object) -> Job | None:
        raise UnavailableError("away")

    async with make_runner(store, executors(1)).serving() as runner:
        with monkeypatch.context() as patch:
            patch.setattr(store, "claim", away)
            await until(runner.not_ready)
            assert runner.not_ready() == ["the database does not answer"]
        await until(lambda: runner.not_ready() == [])
        store.create(job_id="job_1", kind="quick", spec={})
        await until(settled(store, "job_1"))


class FaultyExecutor(ProcessExecutor):
    """Away or broken for as long as a test says so."""

    trouble: Exception | None = None
    broken: Exception | None = None

    def capacity(self) -> Capacity:
        if self.trouble is not None:
            raise self.trouble
        return super().capacity()

    def submit(self, job_id: str) -> int:
        if self.broken is not None:
            raise self.broken
        return super().submit(job_id)


async def test_executor_that_is_away_shows_in_readiness_and_leaves_jobs_in_the_queue(
    store: JobStore, child_environment: dict[str, str]
) -> None:
    executor = FaultyExecutor(worker_module="tests.shared.jobs.fake_worker", slots=1, environment=child_environment)
    executor.trouble = UnavailableError("away")
    store.create(job_id="job_1", kind="quick", spec={})
    async with make_runner(store, executor).serving() as runner:
        await until(runner.not_ready)
        assert runner.not_ready() == ["what runs the jobs does not answer"]
        assert (store.get("job_1").state, store.get("job_1").attempt) == ("queued", 0)
        executor.trouble = None
        await until(settled(store, "job_1"))
        assert runner.not_ready() == []


async def test_job_that_could_not_be_started_goes_back_without_a_loss(store: JobStore, child_environment: dict[str, str]) -> None:
    executor = FaultyExecutor(worker_module="tests.shared.jobs.fake_worker", slots=1, environment=child_environment)
    executor.broken = OSError("no process can be made")
    store.create(job_id="job_1", kind="quick", spec={})
    async with make_runner(store, executor).serving() as runner:
        await until(lambda: store.get("job_1").attempt > 0)
        await until(runner.not_ready)
        assert (store.get("job_1").state, store.get("job_1").losses) == ("queued", 0)
        executor.broken = None
        await until(settled(store, "job_1"))
    assert store.get("job_1").state == "succeeded"


def test_after_a_failed_round_leases_are_renewed_before_jobs_are_taken_back(store: JobStore, executors: Executors) -> None:
    runner = make_runner(store, executors(1))
    every = timedelta(seconds=10)
    assert (runner._is_due("lease", every), runner._is_due("sweep", every)) == (True, True)
    assert (runner._is_due("lease", every), runner._is_due("sweep", every)) == (False, False)
    runner._due["sweep"] = datetime.now(tz=UTC)
    runner._let_leases_be_renewed()
    assert (runner._is_due("lease", every), runner._is_due("sweep", every)) == (True, False)


def test_leases_are_renewed_though_the_clock_is_set_back(store: JobStore, executors: Executors, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_runner(store, executors(1))
    every = timedelta(seconds=10)
    assert (runner._is_due("lease", every), runner._is_due("lease", every)) == (True, False)

    class SetBack(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) - timedelta(hours=1)

    monkeypatch.setattr(runner_module, "datetime", SetBack)
    assert (runner._is_due("lease", every), runner._is_due("lease", every)) == (True, False)
