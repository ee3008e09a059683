"""The detector put together: readiness, and jobs that outlive the process that ran them."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from shared.catalog import Catalog
from shared.diffusion.batching import MicroBatcher
from shared.errors import UnavailableError

if TYPE_CHECKING:
    from tests.fixtures.processes import ServiceProcess
    from tests.services.detector.conftest import Detector


async def test_detector_with_store_and_database_is_ready(detector: Detector) -> None:
    assert (await detector.client.get("/readyz")).json() == {"status": "ready"}
    assert (await detector.client.get("/v1/info")).json()["service"] == "detector"


async def test_detector_whose_store_is_away_is_not_ready(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_catalog: Catalog) -> None:
        raise UnavailableError("the store does not answer")

    monkeypatch.setattr(Catalog, "check", refuse)
    response = await detector.client.get("/readyz")
    assert (response.status_code, response.json()["reasons"]) == (503, ["the store does not answer"])


async def test_saturated_detector_is_not_ready(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MicroBatcher, "is_saturated", property(lambda _: True))
    assert (await detector.client.get("/readyz")).json()["reasons"] == ["too many requests wait"]
    refused = await detector.screen(["p"])
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")


async def test_routes_are_those_of_the_contract(detector: Detector) -> None:
    paths = (await detector.client.get("/openapi.json")).json()["paths"]
    assert {(method, path) for path, methods in paths.items() for method in methods if path != "/v1/info"} == {
        ("post", "/v1/galleries"),
        ("get", "/v1/galleries/{id}"),
        ("get", "/v1/galleries/{id}/events"),
        ("post", "/v1/galleries/{id}/cancel"),
        ("post", "/v1/galleries/{id}/retry"),
        ("post", "/v1/calibrations"),
        ("get", "/v1/calibrations"),
        ("get", "/v1/calibrations/{id}"),
        ("get", "/v1/calibrations/{id}/events"),
        ("post", "/v1/calibrations/{id}/cancel"),
        ("post", "/v1/calibrations/{id}/retry"),
        ("post", "/v1/screenings"),
        ("post", "/v1/matches"),
    }


@pytest.mark.slow
def test_calibration_of_a_killed_service_is_made_by_the_next_one(process: ServiceProcess, stocked_home: Any) -> None:
    process.start()
    body = {"model": stocked_home.model.id, "dataset": stocked_home.dataset.id}
    job = httpx.post(process.url + "/v1/calibrations", json=body, timeout=30).json()
    path = f"/v1/calibrations/{job['id']}"
    process.wait_until(lambda: process.get(path)["progress"]["step"] > 2)
    assert process.process is not None
    children = psutil.Process(process.process.pid).children()
    assert process.kill(signal.SIGKILL) == -signal.SIGKILL
    assert not psutil.wait_procs(children, timeout=30)[1]  # the child died with its parent
    process.start()
    process.wait_until(lambda: process.get(path)["state"] not in {"queued", "running"})
    ended = process.get(path)
    assert (ended["state"], ended["result"]["calibration"]) == ("succeeded", job["id"])
    assert process.get(f"/v1/galleries/{job['id'].replace('cal_', 'gal_')}")["state"] == "succeeded"
    screened = httpx.post(process.url + "/v1/screenings", json={"model": stocked_home.model.id, "prompts": ["edema"]}, timeout=60)
    assert screened.json()["calibration"] == job["id"]
    assert process.kill(signal.SIGTERM) == 0
