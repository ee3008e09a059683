"""The trainer put together: readiness, and jobs that outlive the process that ran them."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from shared.catalog import Catalog
from shared.errors import UnavailableError
from tests.fixtures.processes import ROOT

if TYPE_CHECKING:
    from tests.fixtures.processes import ServiceProcess
    from tests.services.trainer.conftest import Trainer


async def test_trainer_with_store_and_database_is_ready(trainer: Trainer) -> None:
    assert (await trainer.client.get("/readyz")).json() == {"status": "ready"}
    assert (await trainer.client.get("/v1/info")).json()["service"] == "trainer"


async def test_scrape_tells_how_often_trainings_are_to_be_kept(trainer: Trainer) -> None:
    assert "\nlethe_checkpoint_interval_seconds 60.0\n" in (await trainer.client.get("/metrics")).text


async def test_trainer_whose_store_is_away_is_not_ready(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_catalog: Catalog, *, writes: bool) -> None:
        assert writes
        raise UnavailableError("the store does not answer")

    monkeypatch.setattr(Catalog, "check", refuse)
    response = await trainer.client.get("/readyz")
    assert (response.status_code, response.json()["reasons"]) == (503, ["the store does not answer"])


def test_service_itself_stays_free_of_tensor_libraries() -> None:
    script = "import sys, services.trainer.app, services.trainer.worker; print(sorted({'torch', 'diffusers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_job_of_a_killed_service_is_run_again_by_the_next_one(process: ServiceProcess, stocked_home: Any) -> None:
    process.start()
    body = {"name": "a", "dataset": stocked_home.dataset.id, "base": stocked_home.model.id, "steps": 60, "batch_size": 8}
    job = httpx.post(process.url + "/v1/training-jobs", json=body, timeout=30).json()
    path = f"/v1/training-jobs/{job['id']}"
    process.wait_until(lambda: process.get(path)["progress"]["step"] > 2)
    assert process.kill(signal.SIGKILL) == -signal.SIGKILL
    process.start()
    process.wait_until(lambda: process.get(path)["state"] not in {"queued", "running"})
    ended = process.get(path)
    assert (ended["state"], ended["progress"]["step"]) == ("succeeded", 60)
    assert [model["id"] for model in process.get("/v1/models")["items"]] == [ended["result"]["model"], stocked_home.model.id]
    assert process.kill(signal.SIGTERM) == 0
