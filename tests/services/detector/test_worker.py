"""The detector's child process: handlers that build, calibrate, report and stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from services.detector import calibration
from services.detector.worker import HANDLERS
from shared.catalog import new_id, open_catalog
from shared.errors import JobCancelledError
from shared.jobs.context import JobContext
from shared.memorization import galleries

if TYPE_CHECKING:
    from tests.fixtures.models import StockedHome


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(galleries, "EMBEDDER_STEPS", 2)
    monkeypatch.setattr(galleries, "READER_STEPS", 2)
    monkeypatch.setattr(galleries, "BUILDING_STEPS", 4)
    monkeypatch.setattr(calibration, "BUILDING_STEPS", 4)


def test_gallery_keeps_the_id_of_its_job(stocked_home: StockedHome, context: Callable[..., JobContext]) -> None:
    gallery_id = new_id("gallery")
    result = HANDLERS["gallery"](context("gallery", gallery_id, {"dataset": stocked_home.dataset.id, "seed": 3}))
    assert result["gallery"] == gallery_id
    with open_catalog(stocked_home.settings) as catalog:
        assert catalog.get("gallery", gallery_id).lineage["seed"] == 3


def test_calibration_keeps_the_id_of_its_job(stocked_home: StockedHome, context: Callable[..., JobContext]) -> None:
    calibration_id = new_id("calibration")
    spec = {"model": stocked_home.model.id, "dataset": stocked_home.dataset.id, "seeds_per_prompt": 1, "false_positive_rate": 0.3}
    result = HANDLERS["calibration"](context("calibration", calibration_id, spec))
    assert (result["calibration"], result["seeds_per_prompt"], result["false_positive_rate"]) == (calibration_id, 1, 0.3)


def test_cancelled_job_stops_at_its_next_step(stocked_home: StockedHome, context: Callable[..., JobContext]) -> None:
    job = context("gallery", new_id("gallery"), {"dataset": stocked_home.dataset.id})
    with mock.patch.object(JobContext, "check_cancelled", side_effect=JobCancelledError), pytest.raises(JobCancelledError):
        HANDLERS["gallery"](job)
    with open_catalog(stocked_home.settings) as catalog:
        assert catalog.list("gallery", 1)[0] == []
