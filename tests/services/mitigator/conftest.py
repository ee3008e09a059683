"""The mitigator in process: a home with a tiny model of random weights, and a fake detector behind the real client and judge."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI

from services.mitigator import app as mitigator_app
from shared.catalog import ModelManifest, new_id, open_catalog
from shared.client import DetectorClient
from shared.settings import Settings
from tests.denoisers import tiny_model as random_model
from tests.services.mitigator.doubles import FakeDetector


@dataclass(frozen=True)
class Home:
    """A LETHE_HOME with a model that names its data set, and one that names none."""

    settings: Settings
    model: str
    orphan: str


@pytest.fixture(scope="session")
def mitigator_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The home that all tests share; the mitigator writes nothing but copies of models there."""
    settings = Settings(home=tmp_path_factory.mktemp("mitigator-home"), torch_threads=1)
    folder = tmp_path_factory.mktemp("random-model")
    random_model().save(folder)
    with open_catalog(settings) as catalog:
        model, orphan = (catalog.commit(manifest(dataset), folder).id for dataset in (new_id("dataset"), None))
    return Home(settings, model, orphan)


def manifest(dataset: str | None) -> ModelManifest:
    """A model's manifest."""
    return ModelManifest(
        id=new_id("model"), name="tiny", architecture="tiny", dataset=dataset, base=None, spec={}, metrics={}, seed=0, code_version="test"
    )


@pytest.fixture
def detector() -> FakeDetector:
    """The detector that the mitigator asks; tests set its answers."""
    return FakeDetector()


@pytest.fixture
async def mitigator(
    mitigator_home: Home,
    detector: FakeDetector,
    monkeypatch: pytest.MonkeyPatch,
    running_app: Callable[[FastAPI], AbstractAsyncContextManager[httpx.AsyncClient]],
    anyio_backend: str,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the running mitigator."""
    del anyio_backend
    reach = functools.partial(DetectorClient, transport=httpx.MockTransport(detector.answer))
    monkeypatch.setattr(mitigator_app, "DetectorClient", reach)
    async with running_app(mitigator_app.create_app(mitigator_home.settings)) as client:
        yield client
