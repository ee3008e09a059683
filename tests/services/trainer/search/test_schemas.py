"""Searches on the wire."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from services.trainer.search.schemas import ApplyRequest, SearchRequest

TRAINING = {"name": "b", "dataset": "ds_2"}


def test_what_was_said_of_a_training_is_told_apart_from_what_was_not() -> None:
    told = ApplyRequest.model_validate({"training": TRAINING | {"batch_filter": None, "steps": 1500}})
    assert told.wishes == TRAINING | {"batch_filter": None, "steps": 1500}
    assert told.trial is None


def test_parameters_that_say_nothing_are_no_wish() -> None:
    told = ApplyRequest.model_validate({"training": TRAINING | {"parameters": {"kind": "full"}, "found_by": None}})
    assert told.wishes == TRAINING


@pytest.mark.parametrize("rule", [{"kind": "iet", "shards": 20, "rounds": 100}, {"kind": "iet", "redistribute": 0.05}])
def test_ensemble_is_held_against_the_searchs_steps_and_filter_and_not_against_those_of_any_training(rule: dict[str, Any]) -> None:
    told = ApplyRequest.model_validate({"training": TRAINING | {"ensemble": rule}})
    assert told.training.ensemble is not None
    assert told.wishes["ensemble"]["kind"] == "iet"


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"training": TRAINING | {"parameters": {"kind": "bias_norm"}, "base": "m", "text_encoder": "frozen"}}, ("training", "parameters")),
        ({"training": TRAINING | {"base": None}}, ("training",)),
        ({"training": TRAINING | {"found_by": {"search": "job_1", "trial": 0}}}, ("training", "found_by")),
        ({"training": {"name": "b"}}, ("training", "dataset")),
        ({"training": TRAINING, "trial": -1}, ("trial",)),
        ({"training": TRAINING, "trial": True}, ("trial",)),
        ({"training": TRAINING, "search": "job_1"}, ("search",)),
        ({"training": TRAINING | {"name": "a\0"}}, ("training",)),
    ],
)
def test_application_against_the_schema_is_refused_by_field(body: dict[str, Any], place: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as refused:
        ApplyRequest.model_validate(body)
    assert [error["loc"] for error in refused.value.errors()] == [place]


def test_text_of_a_search_is_unicode() -> None:
    with pytest.raises(ValidationError):
        SearchRequest.model_validate({"training": TRAINING | {"base": "mdl_1\0"}, "space": "svdiff"})
