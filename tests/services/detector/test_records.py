"""Galleries and calibrations as callers see them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest import mock

import pytest

from services.detector.records import (
    calibration_result,
    calibration_without_job,
    describe_calibration,
    describe_gallery,
    gallery_result,
    gallery_without_job,
)
from shared.catalog import Catalog
from shared.errors import NotFoundError
from shared.http.operations import Operation

if TYPE_CHECKING:
    from tests.fixtures.judging import JudgingHome


def test_result_of_a_calibration_tells_what_the_mitigator_needs(judging_home: JudgingHome) -> None:
    result = calibration_result(judging_home.calibration, warnings=["w"])
    assert result == {
        "calibration": judging_home.calibration.id,
        "threshold": judging_home.calibration.threshold,
        "control_median": judging_home.calibration.control_median,
        "false_positive_rate": 0.2,
        "n_control": judging_home.calibration.n_control,
        "steps": 1,
        "seeds_per_prompt": 2,
        "seed": 0,
        "warnings": ["w"],
    }


def test_what_no_job_made_is_told_as_an_operation_that_succeeded(judging_home: JudgingHome, judging_catalog: Catalog) -> None:
    for told, result in (
        (gallery_without_job(judging_catalog, judging_home.gallery.id), gallery_result(judging_home.gallery)),
        (calibration_without_job(judging_catalog, judging_home.calibration.id), calibration_result(judging_home.calibration, warnings=[])),
    ):
        operation = Operation.model_validate(told)
        assert (operation.state, operation.result, operation.error) == ("succeeded", result, None)
        assert operation.created == operation.updated


def test_running_job_is_described_by_what_was_asked(judging_catalog: Catalog) -> None:
    job = mock.Mock(state="running")
    job.spec = {"dataset": "ds_1", "seed": 0}
    assert describe_gallery(judging_catalog, job) == {"dataset": "ds_1", "seed": 0}
    assert describe_calibration(judging_catalog, job) == {"dataset": "ds_1", "seed": 0}


def test_finished_job_is_described_by_its_manifest(judging_home: JudgingHome, judging_catalog: Catalog) -> None:
    job = mock.Mock(state="succeeded", id=judging_home.calibration.id)
    assert describe_calibration(judging_catalog, job)["key"] == judging_home.calibration.key
    job = mock.Mock(state="succeeded", id=judging_home.gallery.id)
    assert describe_gallery(judging_catalog, job)["thresholds"] == judging_home.gallery.thresholds


def test_what_was_never_committed_is_not_found(judging_catalog: Catalog) -> None:
    with pytest.raises(NotFoundError):
        gallery_without_job(judging_catalog, "gal_none")
    with pytest.raises(NotFoundError):
        calibration_without_job(judging_catalog, "cal_none")
