"""What a training job is told of batch filters."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from services.trainer.training_spec import TrainingSpec


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0},
        {"quantile": 1.0},
        {"threshold": 2.0, "quantile": 0.9},
        {"tau": 2.0},
        {"threshold": 2.0, "by_timestep": True},
        {"by_timestep": "often"},
    ],
)
def test_magnitude_filter_has_one_sound_limit(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainingSpec.model_validate({"name": "a", "dataset": "ds_1", "batch_filter": {"kind": "magnitude", **change}})


@pytest.mark.parametrize(
    "change", [{"scale": 0.9}, {"decay": 1.0}, {"threshold": 2.0}, {"augment_margin": 0}, {"until_timestep": 0}, {"until_timestep": 1001}]
)
def test_anti_gradient_filter_has_sound_constants(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainingSpec.model_validate({"name": "a", "dataset": "ds_1", "batch_filter": {"kind": "anti_gradient", **change}})


def test_refusal_of_a_threshold_by_timestep_names_the_field() -> None:
    rule = {"kind": "magnitude", "threshold": 2.0, "by_timestep": True}
    with pytest.raises(ValidationError, match=r"(?s)batch_filter.*by_timestep.*the same at all timesteps"):
        TrainingSpec.model_validate({"name": "a", "dataset": "ds_1", "batch_filter": rule})
