"""Reports of trainings become metrics."""

from __future__ import annotations

import time

import pytest
from prometheus_client import REGISTRY

from shared.jobs.training_metrics import forget_training, observe_training


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_figures_of_a_step_are_told_by_slot() -> None:
    seen = value("lethe_training_step_seconds_count", slot="7") or 0
    observe_training(7, {}, {"loss": 0.25, "step_seconds": 0.2, "images_per_second": 80.0})
    assert value("lethe_training_loss", slot="7") == 0.25
    assert value("lethe_training_images_per_second", slot="7") == 80
    assert value("lethe_training_step_seconds_count", slot="7") == seen + 1
    assert value("lethe_checkpoint_last_success_timestamp_seconds", slot="7") is None


def test_each_checkpoint_is_counted_once_and_its_age_grows_from_its_arrival() -> None:
    seen = value("lethe_checkpoint_upload_seconds_count") or 0
    first = {"checkpoint_step": 10, "checkpoint_age_seconds": 4.0, "checkpoint_upload_seconds": 1.5}
    observe_training(7, {}, first)
    assert value("lethe_checkpoint_last_success_timestamp_seconds", slot="7") == pytest.approx(time.time() - 4, abs=2)
    observe_training(7, first, first | {"checkpoint_age_seconds": 9.0})
    assert value("lethe_checkpoint_upload_seconds_count") == seen + 1
    observe_training(7, first, {"checkpoint_step": 20})
    assert value("lethe_checkpoint_upload_seconds_count") == seen + 2
    forget_training(7)
    assert value("lethe_checkpoint_last_success_timestamp_seconds", slot="7") is None
    forget_training(7)


def test_job_that_ended_leaves_no_figures_behind() -> None:
    observe_training(9, {}, {"loss": 0.25, "step_seconds": 0.2, "images_per_second": 80.0, "checkpoint_step": 1})
    forget_training(9)
    gauges = ("lethe_training_loss", "lethe_training_images_per_second", "lethe_checkpoint_last_success_timestamp_seconds")
    assert [value(gauge, slot="9") for gauge in gauges] == [None, None, None]


def test_phase_that_tells_of_no_checkpoints_has_none_that_grows_old() -> None:
    first = {"checkpoint_step": 10}
    observe_training(10, {}, first)
    assert value("lethe_checkpoint_last_success_timestamp_seconds", slot="10") is not None
    observe_training(10, first, {"loss": 0.5})
    assert value("lethe_checkpoint_last_success_timestamp_seconds", slot="10") is None


def test_other_jobs_report_nothing_of_it() -> None:
    observe_training(8, {}, {"loss": None, "step_seconds": "soon"})
    assert value("lethe_training_loss", slot="8") is None
