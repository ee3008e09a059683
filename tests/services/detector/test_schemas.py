"""The detector on the wire."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from services.detector.schemas import CalibrationRequest, GalleryRequest, MatchRequest, ScreeningRequest


def test_defaults_of_screening_and_calibration_meet() -> None:
    screening = ScreeningRequest(model="mdl_1", prompts=["p"])
    calibration = CalibrationRequest(model="mdl_1", dataset="ds_1")
    for name in ("steps", "seeds_per_prompt", "seed", "signals"):
        assert getattr(screening, name) == getattr(calibration, name)


@pytest.mark.parametrize("rate", [0, 0.51, -0.1, 1, float("nan"), float("inf"), "0.01", True])
def test_false_positive_rate_outside_its_bounds_is_refused(rate: Any) -> None:
    with pytest.raises(ValidationError):
        CalibrationRequest(model="mdl_1", dataset="ds_1", false_positive_rate=rate)


@pytest.mark.parametrize("change", [{"images": []}, {"images": ["a"] * 65}, {"k": 0}, {"k": 51}, {"prompts": []}, {"more": 1}])
def test_match_request_against_the_schema_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MatchRequest.model_validate({"dataset": "ds_1", "images": ["a"], **change})


def test_text_without_meaning_is_refused() -> None:
    with pytest.raises(ValidationError, match="valid Unicode"):
        ScreeningRequest(model="mdl_1", prompts=["a\0b"])
    with pytest.raises(ValidationError):
        GalleryRequest(dataset="")
