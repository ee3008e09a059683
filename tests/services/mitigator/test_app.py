"""The mitigator's app: what it says of itself, when it is ready, and that it lives beside the sampler."""

from __future__ import annotations

import importlib
from typing import Any

import httpx
import pytest
import torch

from services.mitigator.app import create_app, not_ready
from services.mitigator.state import MitigatorState
from services.mitigator.turns import Turns
from shared.catalog import open_catalog
from tests.services.mitigator.conftest import Home

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
