"""Ranks on the nodes of a Ray cluster: they train as one process does, and a node that dies costs the steps since the last checkpoint."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from services.trainer import ray_ranks
from services.trainer.training_jobs import run_training
from shared.catalog import new_id
from shared.jobs.ray_executor import RayExecutor
from shared.settings import Settings
from tests.servers.ray_cluster import RayCluster
from tests.services.trainer.conftest import environment_of
from tests.services.trainer.test_data_parallel import curve, spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shared.jobs.context import JobContext
    from tests.fixtures.models import StockedHome
    from tests.services.trainer.conftest import Jobs


@pytest.fixture
def cluster(stocked_home: StockedHome) -> Iterator[RayCluster]:
    """Four nodes that know the home: one for the job's process, one for each rank, one that may die."""
    made = RayCluster(environment_of(stocked_home))
    made.environment |= {"LETHE_RAY_ADDRESS": made.address, "LETHE_RAY_TOKEN_FILE": str(made.token_file)}
    made.start(nodes=4)
    yield made
    made.remove()


def test_first_rank_is_told_when_the_job_is_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_ranks, "_POLL_SECONDS", 0.05)
    asked: list[bool] = []

    class Answer:
        """The actor's answer: yes at the third time."""

        @staticmethod
        def remote() -> bool:
            asked.append(len(asked) >= 2)
            return asked[-1]

    class Told:
        is_told = Answer

    monkeypatch.setattr(ray_ranks.ray, "get", lambda answer: answer)
    patient = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); print('on', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", patient], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        assert ray_ranks._wait(process, Told()) == 75
    assert asked == [False, False, True]


def test_flag_is_told_once_and_stays() -> None:
    stopping = ray_ranks.Stopping()
    assert not stopping.is_told()
    stopping.tell()
    assert stopping.is_told()


def test_rank_takes_as_much_of_a_node_as_a_job() -> None:
    assert ray_ranks._resources(Settings(ray_cpus_per_job=2, ray_gpus_per_job=1)) == {"CPU": 2.0, "GPU": 1.0}
    assert ray_ranks._resources(Settings()) == {"CPU": 1.0}


def ranks() -> list[psutil.Process]:
    """The processes of all ranks on this machine that are below this test."""
    below = psutil.Process().children(recursive=True)
    return [process for process in below if process.cmdline()[-2:-1] == ["rank"]]


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.anyio
async def test_ranks_on_nodes_train_as_one_process_also_after_a_node_died(
    jobs: Jobs, context: Callable[..., JobContext], stocked_home: StockedHome, cluster: RayCluster
) -> None:
    alone = context("training", new_id("job"), spec(stocked_home))
    run_training(alone)

    jobs.executor = RayExecutor(address=cluster.address, token_file=cluster.token_file, worker_module="services.trainer.worker")  # type: ignore[assignment]
    job_id = jobs.create("training", spec(stocked_home, data_parallel={"ranks": 2}, checkpoint_every=2))
    async with jobs.running():
        await jobs.until(job_id, lambda job: job.reported.get("checkpoint_step", 0) >= 2)
        second = next(process for process in ranks() if process.environ()["RANK"] == "1")
        second.suspend()  # else the last steps may be over before the cluster has noticed that the node is gone
        assert len(ranks()) == 2
        cluster.node_of({process.pid for process in second.parents()}).kill()
        job = await jobs.settled(job_id)
    assert (job.state, job.attempt) == ("succeeded", 2)
    assert "going on from step" in " ".join(jobs.messages(job_id))
    assert curve(stocked_home, job_id) == pytest.approx(curve(stocked_home, alone.id), rel=2e-3)
    assert ranks() == []
