"""What an import is told."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from services.trainer.import_spec import ImportSpec


def test_spec_survives_the_way_through_a_job_record() -> None:
    spec = ImportSpec(name="sd", uri="file:///models/sd")
    assert ImportSpec.model_validate(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    "body", [{"name": "a"}, {"name": "", "uri": "file:///a"}, {"name": "a", "uri": ""}, {"name": "a", "uri": "x", "z": 1}]
)
def test_other_bodies_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ImportSpec.model_validate(body)
