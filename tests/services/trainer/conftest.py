"""A trainer in this process on a stocked home, and real trainer processes; both run real child processes for jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from tests.fixtures.processes import PATIENCE_SECONDS, ROOT, ServiceProcess

if TYPE_CHECKING:
    from shared.jobs.records import Job
    from shared.jobs.runner import JobRunner
    from tests.fixtures.apps import OpenApp
    from tests.fixtures.models import StockedHome


class Trainer:
    """A client that knows how to wait."""

    def __init__(self, client: httpx.AsyncClient, home: StockedHome) -> None:
        self.client = client
        self.home = home

    async def wait_until(self, path: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Poll a job until something is true of it."""
        with anyio.fail_after(PATIENCE_SECONDS):
            while True:
                job: dict[str, Any] = (await self.client.get(path)).json()
                if condition(job):
                    return job
                await anyio.sleep(0.1)

    async def wait(self, path: str) -> dict[str, Any]:
        """Poll a job until it ended."""
        return await self.wait_until(path, lambda job: job["state"] in {"succeeded", "failed", "cancelled"})


@pytest.fixture
async def trainer(
    stocked_home: StockedHome, running_app: OpenApp, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[Trainer]:
    """The trainer on a home of the test's own, which holds a data set and a model."""
    del anyio_backend
    from services.trainer.app import create_app

    for name, value in environment_of(stocked_home).items():
        monkeypatch.setenv(name, value)
    settings = stocked_home.settings.model_copy(update={"import_roots": str(stocked_home.folder / "imports")})
    (stocked_home.folder / "imports").mkdir()
    async with running_app(create_app(settings)) as client:
        yield Trainer(client, stocked_home)


def environment_of(home: StockedHome) -> dict[str, str]:
    """What the children are told."""
    return {
        "LETHE_HOME": str(home.folder),
        "LETHE_TORCH_THREADS": "1",
        "LETHE_IMPORT_ROOTS": str(home.folder / "imports"),
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture
def process(stocked_home: StockedHome) -> Iterator[ServiceProcess]:
    """A trainer to be started, killed and started again; gone after the test."""
    made = ServiceProcess("trainer", environment_of(stocked_home))
    yield made
    made.end()


class Jobs:
    """A runner of real trainer processes on a home, in this process."""

    def __init__(self, home: StockedHome) -> None:
        from shared.jobs.process_executor import ProcessExecutor
        from shared.jobs.records import JobStore

        self.home = home
        self.store = JobStore.open(home.settings)
        self.executor = ProcessExecutor(worker_module="services.trainer.worker", slots=1, environment=environment_of(home))

    def create(self, kind: str, spec: dict[str, Any]) -> str:
        """Queue a job."""
        from shared.catalog import new_id

        return self.store.create(job_id=new_id("job"), kind=kind, spec=spec).id

    def running(self) -> AbstractAsyncContextManager[JobRunner]:
        """Run jobs while the block lasts; on leaving, their processes are told to stop."""
        from shared.jobs.runner import JobRunner

        return JobRunner(store=self.store, executor=self.executor, kinds=["training", "search"]).serving()

    def process_of(self, job_id: str) -> int:
        """The process that runs a job."""
        return self.executor._children[job_id].process.pid

    async def until(self, job_id: str, condition: Callable[[Job], bool]) -> Job:
        """Wait until something is true of a job."""
        with anyio.fail_after(PATIENCE_SECONDS):
            while not condition(job := self.store.get(job_id)):
                assert not job.is_settled, job.problem
                await anyio.sleep(0.02)
            return job

    async def settled(self, job_id: str) -> Job:
        """Wait until a job ended."""
        return await self.until(job_id, lambda job: job.is_settled)

    def messages(self, job_id: str) -> list[str]:
        """What a job said it was doing."""
        return [event.data["progress"]["message"] for event in self.store.events_since(job_id)]


@pytest.fixture
def jobs(stocked_home: StockedHome) -> Iterator[Jobs]:
    """Real trainer processes on a home of the test's own; none is left after the test."""
    made = Jobs(stocked_home)
    yield made
    made.executor.close(grace=timedelta(0))
    made.store.close()
