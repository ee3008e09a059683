"""Operations followed to their end."""

from __future__ import annotations

import json

import pytest

from shared.cli.conversation import follow, show_operation
from shared.client.operations import ProgressCallback
from shared.client.replies import Operation

DONE = Operation.model_validate(
    {
        "id": "ds_1",
        "kind": "dataset",
        "state": "succeeded",
        "progress": {"step": 2, "total": 2, "message": ""},
        "created": "2026-11-22T00:00:00Z",
        "updated": "2026-11-22T00:00:00Z",
        "counts": {"train": 3},
        "warnings": [],
    }
)


def test_operation_is_followed_and_shown_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[ProgressCallback] = []

    def wait(progress: ProgressCallback) -> Operation:
        asked.append(progress)
        return DONE

    follow("Registering", wait, as_json=True)
    assert len(asked) == 1
    assert json.loads(capsys.readouterr().out)["counts"] == {"train": 3}


def test_operation_is_shown_to_people_without_what_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    show_operation(DONE, as_json=False)
    out = capsys.readouterr().out
    assert "train 3" in out
    assert "warnings" not in out
    assert "progress" not in out


def test_parts_of_parts_have_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    splits = {"train": {"films": 5, "patients": 2}, "control": {"films": 1, "patients": 1}}
    gates = {
        "duplicates": {"action": "drop", "first_lines": [2, 7], "limit": None, "examined": False, "markers": {"date": 0.5}},
        "none": {},
    }
    warnings = ["3 films are few", "so are 2 [patients]"]
    show_operation(DONE.model_copy(update={"splits": splits, "gates": gates, "warnings": warnings}), as_json=False)
    lines = {line.partition(" ")[0]: line.partition(" ")[2].strip() for line in capsys.readouterr().out.splitlines()}
    assert lines["splits.train"] == "films 5, patients 2"
    assert lines["splits.control"] == "films 1, patients 1"
    assert lines["warnings"] == "3 films are few; so are 2 [patients]"
    assert lines["gates.duplicates.action"] == "drop"
    assert lines["gates.duplicates.first_lines"] == "2; 7"
    assert lines["gates.duplicates.markers"] == "date 0.5"
    assert "gates.duplicates.limit" not in lines
    assert "gates.none" not in lines
