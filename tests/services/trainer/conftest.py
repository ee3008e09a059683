"""A trainer in this process on a stocked home, and real trainer processes; both run real child processes for jobs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from shared.jobs.context import JobContext
from shared.jobs.records import JobStore

if TYPE_CHECKING:
    from tests.fixtures.apps import OpenApp
    from tests.fixtures.models import StockedHome

ROOT = Path(__file__).parents[3]
PATIENCE_SECONDS = 120  # a child loads torch in seconds, on a busy machine in many


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


class Process:
    """A trainer as its own process on a port of its own; started again, it is another process on the same home and port."""

    def __init__(self, home: StockedHome) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {**os.environ, **environment_of(home), "LETHE_TRAINER_URL": self.url}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it wants work."""
        self.process = subprocess.Popen([sys.executable, "-m", "services.trainer"], env=self.environment, cwd=ROOT)
        self.wait_until(self._is_ready)

    def kill(self, number: signal.Signals) -> int:
        """Send a signal; answers the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)

    def get(self, path: str) -> dict[str, Any]:
        """Read something."""
        answer: dict[str, Any] = httpx.get(self.url + path, timeout=30).json()
        return answer

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait, as long as the process lives."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert self.process is not None
            assert self.process.poll() is None, "the trainer ended"
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(self.url + "/readyz", timeout=30).status_code == 200
        except httpx.ConnectError:
            return False


@pytest.fixture
def process(stocked_home: StockedHome) -> Iterator[Process]:
    """A trainer to be started, killed and started again; gone after the test."""
    made = Process(stocked_home)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill(signal.SIGKILL)


@pytest.fixture
def context(stocked_home: StockedHome) -> Iterator[Callable[..., JobContext]]:
    """Makes the context of a job that this process has just claimed."""
    store = JobStore.open(stocked_home.settings)

    def make(kind: str, job_id: str, spec: dict[str, Any]) -> JobContext:
        store.create(job_id=job_id, kind=kind, spec=spec)
        job = store.claim(kinds=[kind], owner="test")
        assert job is not None
        return JobContext(job=job, store=store, settings=stocked_home.settings)

    yield make
    store.close()
