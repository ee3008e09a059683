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
    assert '{"train": 3}' in out
    assert "warnings" not in out
    assert "progress" not in out
