"""Problems kept in job records."""

from __future__ import annotations

from shared.errors import DatasetError
from shared.jobs.failures import PartFailedError, failure_of, lost_too_often


def test_named_error_keeps_its_message_and_field() -> None:
    assert failure_of(DatasetError("row 3: no Sex.", field="source.csv"), trace_id="t") == {
        "type": "urn:lethe:problem:validation",
        "title": "The request breaks the schema",
        "status": 422,
        "detail": "row 3: no Sex.",
        "trace_id": "t",
        "errors": [{"loc": ["body", "source", "csv"], "msg": "row 3: no Sex.", "type": "value_error"}],
    }


def test_unexpected_error_tells_the_trace_id_only() -> None:
    assert failure_of(ValueError("canary-prompt"), trace_id="t") == {
        "type": "urn:lethe:problem:internal",
        "title": "A defect in Lethe",
        "status": 500,
        "trace_id": "t",
    }


def test_lost_job_says_how_often_it_was_tried() -> None:
    problem = lost_too_often(losses=3, trace_id=None)
    assert problem["type"] == "urn:lethe:problem:internal"
    assert "3 times" in problem["detail"]


def test_failure_of_a_part_is_the_jobs_and_names_the_part() -> None:
    of_part = failure_of(DatasetError("row 3: no Sex.", field="source.csv"), trace_id="t")
    error = PartFailedError("shard 2", of_part)
    assert str(error) == "shard 2: row 3: no Sex."
    assert failure_of(error, trace_id="other") == {**of_part, "detail": "shard 2: row 3: no Sex."}
    defect = PartFailedError("shard 2", failure_of(ValueError("canary-prompt"), trace_id="t"))
    assert failure_of(defect, trace_id=None)["detail"] == "shard 2: A defect in Lethe"
