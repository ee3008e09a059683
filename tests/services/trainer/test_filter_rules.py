"""What a training job is told of batch filters."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from services.trainer.training_spec import TrainingSpec


@pytest.mark.parametrize("change", [{"threshold": 0}, {"quantile": 1.0}, {"threshold": 2.0, "quantile": 0.9}, {"tau": 2.0}])
def test_magnitude_filter_has_one_sound_limit(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainingSpec.model_validate({"name": "a", "dataset": "ds_1", "batch_filter": {"kind": "magnitude", **change}})


@pytest.mark.parametrize("change", [{"scale": 0.9}, {"decay": 1.0}, {"threshold": 2.0}])
def test_anti_gradient_filter_has_sound_constants(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainingSpec.model_validate({"name": "a", "dataset": "ds_1", "batch_filter": {"kind": "anti_gradient", **change}})
