"""report.json holds what the issue lists, each rate with its interval and its number of cases."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from shared.cli.demo import Plan
from shared.cli.report import Figure, PromptRow, Report
from tests.shared.cli.reports import told_story


def at(document: dict[str, Any], path: str) -> Any:
    for part in path.split("."):
        document = document[part]
    return document


@pytest.mark.parametrize(
    "path",
    [
        "detection.auc",
        "detection.tpr_at_1pct_fpr",
        "detection.correlation",
        "copy_rate.canary_plain",
        "copy_rate.canary_mitigated",
        "copy_rate.control_plain",
        "refusal_rate",
        "fidelity.prompt_agreement.canary_plain",
        "fidelity.prompt_agreement.canary_mitigated",
        "fidelity.prompt_agreement.control_plain",
    ],
)
def test_rate_has_value_interval_and_number(path: str) -> None:
    document = json.loads(told_story()[1].model_dump_json())
    figure = at(document, path)
    assert set(figure) == {"value", "low", "high", "n"}
    assert figure["low"] <= figure["value"] + 1e-9
    assert figure["value"] <= figure["high"] + 1e-9
    assert figure["n"] > 0


def test_document_is_read_back_as_it_was_written() -> None:
    report = told_story()[1]
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_document_names_seed_versions_machine_and_settings() -> None:
    document = json.loads(told_story()[1].model_dump_json())
    assert document["seed"] == 0
    assert "torch" in document["versions"]
    assert set(document["machine"]) == {"processor", "cores", "memory_bytes", "system"}
    assert document["settings"]["guidance_scale"] == Plan().guidance_scale
    assert document["settings"]["quick"] is False


def test_figure_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValidationError):
        Figure(value=float("nan"), n=3)


def test_figure_that_cannot_be_told_has_a_reason() -> None:
    assert Figure.missing(12, "too few").model_dump() == {"value": None, "low": None, "high": None, "n": 12, "reason": "too few"}


def test_prompt_that_was_not_drawn_has_no_similarity() -> None:
    row = PromptRow(record=1, patient="p", group="control", prompt="a", score=1.0, p_value=0.5, decision="allow")
    assert (row.similarity, row.copies) == (None, 0)
