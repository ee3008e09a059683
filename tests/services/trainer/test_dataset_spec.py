"""What a data set's spec may say, and what it says without being asked."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from services.trainer.dataset_spec import DatasetSpec

PHANTOM: dict[str, Any] = {"name": "phantom", "source": {"format": "phantom", "patients": 30}}


def test_gates_only_report_without_being_asked() -> None:
    spec = DatasetSpec.model_validate(PHANTOM)
    gates = spec.gates.model_dump()
    assert {gate["action"] for gate in gates.values()} == {"report"}
    assert (spec.gates.k_anonymity.k, spec.max_films_per_patient) == (5, None)
    assert spec.prompt.model_dump() == {
        "template": "findings",
        "uncertain": "ignore",
        "age": "exact",
        "scrub": False,
        "encoder": None,
        "max_tokens": None,
    }


@pytest.mark.parametrize("source_format", ["chexpert", "mimic-cxr-jpg", "imagefolder", "dicom"])
def test_folders_of_every_format_are_named_by_uri(source_format: str) -> None:
    spec = DatasetSpec.model_validate(PHANTOM | {"source": {"format": source_format, "uri": "file:///data"}})
    assert (spec.source.format, spec.source.uri) == (source_format, "file:///data")
    with pytest.raises(ValidationError, match="uri"):
        DatasetSpec.model_validate(PHANTOM | {"source": {"format": source_format}})


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"image_size": 60},
        {"image_size": 100_000},
        {"image_size": "64"},
        {"control_fraction": -0.1},
        {"control_fraction": float("nan")},
        {"control_fraction": 1.0},
        {"canaries": {"count": -1, "repeats": 40}},
        {"canaries": {"count": 1, "repeats": 10**9}},
        {"views": []},
        {"views": ["oblique"]},
        {"seed": -1},
        {"source": {"format": "nifti", "uri": "file:///x"}},
        {"source": {"format": "dicom", "uri": ""}},
        {"max_films_per_patient": 0},
        {"prompt": {"encoder": "champion"}},
        {"gates": {"duplicates": {"action": "generalise"}}},
        {"gates": {"k_anonymity": {"k": 1}}},
        {"source": {"format": "phantom", "patients": 10**9}},
        {"prompt": {"template": "poem"}},
        {"colour": True},
    ],
    ids=str,
)
def test_spec_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DatasetSpec.model_validate(PHANTOM | change)
