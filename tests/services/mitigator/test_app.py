"""The mitigator's app: what it says of itself, when it is ready, and that it lives beside the sampler."""

from __future__ import annotations

import functools
import importlib
from contextlib import closing
from typing import Any

import httpx
import pytest
import torch
from pydantic import SecretStr

from services.mitigator import app as mitigator_app
from services.mitigator.app import create_app, not_ready
from services.mitigator.state import MitigatorState
from services.mitigator.turns import Turns
from shared.access.key_records import KeyRecords
from shared.catalog import open_catalog
from shared.client import DetectorClient
from shared.database import Database
from shared.http.migrations import migrate_embedded
from tests.fixtures.apps import OpenApp
from tests.services.mitigator.conftest import Home
from tests.services.mitigator.doubles import FakeDetector

pytestmark = pytest.mark.anyio


async def test_service_names_itself_and_is_ready(mitigator: httpx.AsyncClient) -> None:
    info = (await mitigator.get("/v1/info")).json()
    assert (info["service"], info["contract"]) == ("mitigator", "v1")
    assert (await mitigator.get("/livez")).status_code == 200
    assert (await mitigator.get("/readyz")).status_code == 200
    assert torch.get_num_threads() == 1


async def test_routes_are_those_of_the_contract(mitigator_home: Home) -> None:
    paths = create_app(mitigator_home.settings).openapi()["paths"]
    assert {path: sorted(methods) for path, methods in paths.items()} == {
        "/v1/info": ["get"],
        "/v1/strategies": ["get"],
        "/v1/generations": ["post"],
    }


async def test_full_queue_is_not_ready(mitigator_home: Home) -> None:
    with open_catalog(mitigator_home.settings) as catalog:
        nobody: Any = None
        state = MitigatorState(catalog=catalog, windows=nobody, workshop=nobody, turns=Turns(at_once=0, max_waiting=0))
        assert not_ready(state) == ["the queue is full"]


async def test_metrics_are_shared_with_the_sampler_without_a_clash(mitigator: httpx.AsyncClient) -> None:
    importlib.import_module("services.sampler.app")
    text = (await mitigator.get("/metrics")).text
    assert text.count("# TYPE lethe_images_generated_total counter") == 1
    assert text.count("# TYPE lethe_generation_duration_seconds histogram") == 1


async def test_detector_is_shown_the_services_key_and_told_for_whom_it_works(
    mitigator_home: Home, detector: FakeDetector, running_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: set[tuple[str, str]] = set()

    def answer(request: httpx.Request) -> httpx.Response:
        shown.add((request.headers["Authorization"], request.headers["Lethe-On-Behalf-Of"]))
        return detector.answer(request)

    monkeypatch.setattr(mitigator_app, "DetectorClient", functools.partial(DetectorClient, transport=httpx.MockTransport(answer)))
    settings = mitigator_home.settings.model_copy(update={"auth": "on", "service_key": SecretStr("lethe_siblings")})
    with closing(Database.open(settings)) as database:
        migrate_embedded(database)
        caller = KeyRecords.of(settings, database).create(name="ward a", scopes=["mitigate"], lifetime=None)
    async with running_app(create_app(settings)) as client:
        body = {"model": mitigator_home.model, "prompts": ["chest radiograph"], "steps": 2, "guidance_scale": 3.0}
        answered = await client.post("/v1/generations", json=body, headers={"Authorization": f"Bearer {caller.text}"})
    assert answered.status_code == 200, answered.text
    assert shown == {("Bearer lethe_siblings", caller.id)}
