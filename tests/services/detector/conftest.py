"""Detectors in this process and as processes of their own."""

from __future__ import annotations

import json
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
    from tests.fixtures.judging import JudgingHome
    from tests.fixtures.models import StockedHome

ROOT = Path(__file__).parents[3]
PATIENCE_SECONDS = 240  # a child loads torch in seconds, on a busy machine in many


class Detector:
    """A client that knows how to wait."""

    def __init__(self, client: httpx.AsyncClient, home: JudgingHome) -> None:
        self.client = client
        self.home = home

    async def post(self, path: str, **body: Any) -> httpx.Response:
        """Send a body."""
        content = json.dumps(body)  # in ASCII, which can spell what UTF-8 cannot
        return await self.client.post(path, content=content, headers={"Content-Type": "application/json"}, timeout=PATIENCE_SECONDS)

    async def screen(self, prompts: list[str], **more: Any) -> httpx.Response:
        """Screen with the settings that are calibrated."""
        return await self.post("/v1/screenings", **{"model": self.home.stocked.model.id, "prompts": prompts, "seeds_per_prompt": 2, **more})

    async def match(self, images: list[str], **more: Any) -> httpx.Response:
        """Look for images."""
        return await self.post("/v1/matches", **{"dataset": self.home.stocked.dataset.id, "images": images, **more})

    async def wait(self, path: str) -> dict[str, Any]:
        """Poll a job until it ended."""
        with anyio.fail_after(PATIENCE_SECONDS):
            while True:
                job: dict[str, Any] = (await self.client.get(path)).json()
                if job["state"] in {"succeeded", "failed", "cancelled"}:
                    return job
                await anyio.sleep(0.1)


@pytest.fixture
async def detector(
    judging_home: JudgingHome, running_app: OpenApp, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[Detector]:
    """The detector on a home of the test's own."""
    del anyio_backend
    from services.detector.app import create_app

    for name, value in environment_of(judging_home.stocked).items():
        monkeypatch.setenv(name, value)
    async with running_app(create_app(judging_home.settings)) as client:
        yield Detector(client, judging_home)


def environment_of(home: StockedHome) -> dict[str, str]:
    """What the children are told."""
    return {"LETHE_HOME": str(home.folder), "LETHE_TORCH_THREADS": "1", "PYTHONPATH": str(ROOT)}


class Process:
    """A detector as its own process on a port of its own; started again, it is another process on the same home and port."""

    def __init__(self, home: StockedHome) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {**os.environ, **environment_of(home), "LETHE_DETECTOR_URL": self.url}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it wants work."""
        self.process = subprocess.Popen([sys.executable, "-m", "services.detector"], env=self.environment, cwd=ROOT)
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
            assert self.process.poll() is None, "the detector ended"
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(self.url + "/readyz", timeout=30).status_code == 200
        except httpx.ConnectError:
            return False


@pytest.fixture
def process(stocked_home: StockedHome) -> Iterator[Process]:
    """A detector to be started, killed and started again on a home without gallery; gone after the test."""
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
