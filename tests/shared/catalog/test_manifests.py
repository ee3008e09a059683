"""Manifests are typed, frozen and free of what may not be kept."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from shared.catalog import CalibrationManifest, FileEntry, GenerationManifest, ModelManifest, new_id
from tests.shared.catalog.examples import dataset, model

CALIBRATION: dict[str, Any] = {
    "id": "cal_1",
    "name": "calibration",
    "model": "mdl_1",
    "dataset": "ds_1",
    "key": "noise_magnitude-1-4",
    "false_positive_rate": 0.01,
    "threshold": 1.7,
    "control_median": 1.0,
    "steps": 1,
    "seeds_per_prompt": 4,
    "signals": ["noise_magnitude"],
    "n_control": 60,
}


def test_manifest_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        model().name = "other"  # type: ignore[misc]


def test_creation_time_is_utc_and_written_as_rfc_3339() -> None:
    made = model()
    assert abs((datetime.now(UTC) - made.created).total_seconds()) < 10
    assert made.model_dump(mode="json")["created"].endswith("Z")


def test_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        ModelManifest.model_validate({**model().model_dump(), "extra": 1})


@pytest.mark.parametrize("identifier", ["ds_1", "mdl_", "mdl_../a", "x"])
def test_id_of_another_kind_is_refused(identifier: str) -> None:
    with pytest.raises(ValidationError, match="not an id of a model"):
        model(identifier)


@pytest.mark.parametrize(
    ("field", "value"),
    [("threshold", float("nan")), ("threshold", float("inf")), ("false_positive_rate", 0.0), ("false_positive_rate", 1.0), ("steps", 0)],
)
def test_impossible_number_is_refused(field: str, value: float) -> None:
    assert CalibrationManifest.model_validate(CALIBRATION).threshold == 1.7
    with pytest.raises(ValidationError, match=field):
        CalibrationManifest.model_validate({**CALIBRATION, field: value})


@pytest.mark.parametrize("field", ["prompt", "prompts"])
def test_generation_that_holds_a_prompt_is_refused(field: str) -> None:
    request = {"prompt_hmac": ["ab"], "steps": 50}
    kept = GenerationManifest(id=new_id("generation"), name="", model="mdl_1", request=request, images=[])
    assert kept.request == request
    with pytest.raises(ValidationError, match="holds a prompt") as caught:
        GenerationManifest(id=new_id("generation"), name="", model="mdl_1", request={**request, field: ["a film of"]}, images=[])
    assert caught.value.error_count() == 1


@pytest.mark.parametrize("path", ["../a", "/a", "a//b", ".hidden", ""])
def test_file_outside_its_folder_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="object key"):
        FileEntry(path=path, size_bytes=1, sha256="0" * 64)


def test_every_kind_names_itself() -> None:
    assert (dataset().kind, model().kind, CalibrationManifest.model_validate(CALIBRATION).kind) == ("dataset", "model", "calibration")
