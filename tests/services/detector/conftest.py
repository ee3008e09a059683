"""Detectors in this process and as processes of their own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from tests.fixtures.processes import PATIENCE_SECONDS, ROOT, ServiceProcess

if TYPE_CHECKING:
    from tests.fixtures.apps import OpenApp
    from tests.fixtures.judging import JudgingHome
    from tests.fixtures.models import StockedHome


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


@pytest.fixture
def process(stocked_home: StockedHome) -> Iterator[ServiceProcess]:
    """A detector to be started, killed and started again on a home without gallery; gone after the test."""
    made = ServiceProcess("detector", environment_of(stocked_home))
    yield made
    made.end()
