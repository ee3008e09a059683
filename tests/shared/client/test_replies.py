"""Replies keep what services add, and know when an operation ended."""

from __future__ import annotations

import pytest

from shared.client.replies import Matching, Operation, Screening


@pytest.mark.parametrize(
    ("state", "settled"), [("queued", False), ("running", False), ("succeeded", True), ("failed", True), ("cancelled", True)]
)
def test_operation_is_settled_in_its_final_states_only(state: str, settled: bool) -> None:
    assert Operation.model_validate({"id": "job_1", "kind": "training", "state": state}).is_settled is settled


def test_fields_that_a_later_service_adds_are_kept() -> None:
    operation = Operation.model_validate({"id": "ds_1", "kind": "dataset", "state": "succeeded", "counts": {"train": 3}})
    assert operation.model_dump()["counts"] == {"train": 3}


def test_screening_reads_the_example_of_the_contract() -> None:
    result = {
        "decision": "mitigate",
        "score": 1.93,
        "p_value": 0.004,
        "threshold": 1.71,
        "signals": {"noise_magnitude": 1.93},
        "tokens": [{"text": "left", "weight": 0.31}],
        "reasons": ["above"],
    }
    screening = Screening.model_validate({"results": [result], "calibration": "cal_1"})
    assert screening.results[0].tokens is not None
    assert screening.results[0].tokens[0].weight == 0.31


def test_matching_without_prompts_has_no_agreements() -> None:
    neighbour = {"record": 17, "patient": "p", "similarity": 0.97, "verdict": "copy", "tile_distance": 0.01}
    matching = Matching.model_validate({"matches": [[neighbour]], "verdicts": ["copy"], "thresholds": {"copy": 0.9}, "agreements": None})
    assert matching.agreements is None
    assert matching.matches[0][0].verdict == "copy"
