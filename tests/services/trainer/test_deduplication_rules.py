"""What a training job is told of deduplication."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from services.trainer.training_spec import TrainingSpec


def test_cap_is_five_films_unless_said_otherwise() -> None:
    asked = TrainingSpec.model_validate({"name": "a", "dataset": "ds_1", "deduplicate": {}}).deduplicate
    assert asked is not None
    assert asked.films_per_patient == 5
    assert TrainingSpec(name="a", dataset="ds_1").deduplicate is None


@pytest.mark.parametrize("change", [{"films_per_patient": 0}, {"films_per_patient": 2.5}, {"threshold": 0.9}, True])
def test_unsound_wish_is_refused_by_name(change: Any) -> None:
    with pytest.raises(ValidationError, match="deduplicate"):
        TrainingSpec.model_validate({"name": "a", "dataset": "ds_1", "deduplicate": change})
