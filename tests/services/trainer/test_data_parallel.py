"""Ranks below a job's process: they train as one process does, and a rank that dies costs the steps since the last checkpoint."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any, Self

import psutil
import pytest

from services.trainer import data_parallel
from services.trainer.data_parallel import run_ranks
from services.trainer.training_jobs import run_training
from shared.catalog import new_id
from shared.diffusion.checkpoint_store import CheckpointStore
from shared.errors import UnavailableError
from shared.jobs.context import JobInterruptedError, JobLostError, JobSettledError
from shared.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.jobs.context import JobContext
    from tests.fixtures.models import StockedHome
    from tests.services.trainer.conftest import Jobs

pytestmark = pytest.mark.anyio


def spec(home: StockedHome, **changes: Any) -> dict[str, Any]:
    return {"name": "a", "dataset": home.dataset.id, "base": home.model.id, "steps": 24, "batch_size": 4, "seed": 5, **changes}


def curve(home: StockedHome, job_id: str) -> list[float]:
    """The stored losses of a job's denoiser."""
    store = open_store(home.settings)
    points = json.loads(store.get(key=f"checkpoints/{job_id}/losses.json"))["curves"][0]["points"]
    return [loss for _step, loss in points]


def ranks_of(job_process: int) -> list[int]:
    """Process ids of a job's ranks, by rank."""
    below = psutil.Process(job_process).children(recursive=True)
    return [process.pid for process in below if "rank" in process.cmdline() and "data_parallel" in " ".join(process.cmdline())]


@pytest.mark.slow
async def test_ranks_train_as_one_process_also_after_one_was_killed(
    jobs: Jobs, context: Callable[..., JobContext], stocked_home: StockedHome
) -> None:
    alone = context("training", new_id("job"), spec(stocked_home))
    run_training(alone)

    job_id = jobs.create("training", spec(stocked_home, data_parallel={"ranks": 2}, checkpoint_every=4))
    async with jobs.running():
        await jobs.until(job_id, lambda job: job.reported.get("checkpoint_step", 0) >= 4)
        ranks = ranks_of(jobs.process_of(job_id))
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGKILL)
        await jobs.until(job_id, lambda job: job.step > job.reported.get("resumed_step", job.total))
        ranks += ranks_of(jobs.process_of(job_id))
    job = jobs.store.get(job_id)  # the service stopped: the leader kept its step
    assert (job.state, job.attempt) == ("queued", 2)
    [*_, kept] = CheckpointStore(open_store(stocked_home.settings), job_id, scratch=stocked_home.folder, keep=2).steps()
    assert kept >= job.step
    async with jobs.running():
        job = await jobs.settled(job_id)
    assert (job.state, job.attempt, job.reported["resumed_step"]) == ("succeeded", 3, kept)
    assert curve(stocked_home, job_id) == pytest.approx(curve(stocked_home, alone.id), rel=2e-3)
    assert not any(psutil.pid_exists(rank) for rank in ranks)


class Launcher:
    """A launcher that ends as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int, while_running: Callable[[], None] = lambda: None) -> None:
        self.command: list[str] = []
        self.signals: list[int] = []
        self.code = code
        self.looks = 0
        self.while_running = while_running
        monkeypatch.setattr(data_parallel.subprocess, "Popen", self.start)

    def start(self, command: list[str], **_words: Any) -> Launcher:
        self.command = command
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        return None

    def wait(self, seconds: float) -> int:
        self.looks += 1
        if self.looks < 3:
            self.while_running()
            raise data_parallel.subprocess.TimeoutExpired(self.command, seconds)
        return self.code

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


@pytest.fixture
def job(context: Callable[..., JobContext], stocked_home: StockedHome) -> JobContext:
    return context("training", new_id("job"), spec(stocked_home))


def test_ranks_that_ended_without_settling_the_job_are_a_loss(job: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Launcher(monkeypatch, 1)
    with pytest.raises(JobLostError, match="ended with 1"):
        run_ranks(job, 3)
    assert launcher.command[1:] == ["-m", "services.trainer.data_parallel", "launch", job.id, "3"]
    assert launcher.signals == []


@pytest.mark.parametrize("code", [0, 1])
def test_job_that_the_leader_settled_stays_so(job: JobContext, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    Launcher(monkeypatch, code)
    job._store.succeed(job_id=job.id, attempt=job.attempt, result={})
    with pytest.raises(JobSettledError):
        run_ranks(job, 2)


def test_request_to_stop_reaches_the_launcher_once(job: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Launcher(monkeypatch, 1, while_running=job.interrupt)
    with pytest.raises(JobInterruptedError):
        run_ranks(job, 2)
    assert launcher.signals == [signal.SIGTERM]


def test_request_to_stop_that_follows_the_end_is_not_passed_on(job: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def settle() -> None:
        job._store.succeed(job_id=job.id, attempt=job.attempt, result={})
        job.interrupt()

    launcher = Launcher(monkeypatch, 0, while_running=settle)
    with pytest.raises(JobSettledError):
        run_ranks(job, 2)
    assert launcher.signals == []


def test_record_that_cannot_be_read_is_left_to_the_runner(job: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_job_id: str) -> None:
        raise UnavailableError("away")

    Launcher(monkeypatch, 0)
    monkeypatch.setattr(job._store, "get", away)
    with pytest.raises(JobLostError):
        run_ranks(job, 2)
