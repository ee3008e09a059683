"""The sampler put together: readiness, and what its process weighs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from shared.catalog import Catalog
from shared.diffusion.studio import Studio
from shared.errors import UnavailableError

if TYPE_CHECKING:
    from tests.fixtures.models import StockedHome

ROOT = Path(__file__).parents[3]
IDLE_LIMIT_BYTES = 700 * 2**20


async def test_sampler_with_a_store_is_ready(sampler: httpx.AsyncClient) -> None:
    assert (await sampler.get("/readyz")).json() == {"status": "ready"}
    assert (await sampler.get("/v1/info")).json()["service"] == "sampler"


async def test_sampler_whose_store_is_away_is_not_ready(sampler: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_catalog: Catalog) -> None:
        raise UnavailableError("the store does not answer")

    monkeypatch.setattr(Catalog, "check", refuse)
    response = await sampler.get("/readyz")
    assert (response.status_code, response.json()["reasons"]) == (503, ["the store does not answer"])


async def test_sampler_with_a_full_queue_is_not_ready(sampler: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Studio, "is_saturated", property(lambda _studio: True))
    response = await sampler.get("/readyz")
    assert (response.status_code, response.json()["reasons"]) == (503, ["the queue is full"])


@pytest.mark.slow
def test_process_idles_below_its_limit_with_a_model_loaded_and_ends_cleanly(stocked_home: StockedHome) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "LETHE_HOME": str(stocked_home.folder), "LETHE_TORCH_THREADS": "1", "LETHE_SAMPLER_URL": url}
    process = subprocess.Popen([sys.executable, "-m", "services.sampler"], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                httpx.get(url + "/readyz", timeout=30).raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        body = {"model": stocked_home.model.id, "prompts": ["a canary prompt that no log may hold"], "steps": 2}
        assert httpx.post(url + "/v1/generations", json=body, timeout=60).status_code == 200
        idle = psutil.Process(process.pid).memory_info().rss
        process.send_signal(signal.SIGTERM)
        logs = process.communicate(timeout=60)[1].decode()
        assert process.returncode == 0
    finally:
        process.kill()
    assert idle < IDLE_LIMIT_BYTES, f"{idle / 2**20:.0f} MiB"
    assert "no log may hold" not in logs
    assert all(line.startswith("{") for line in logs.splitlines()), "progress bars or warnings among the logs"
