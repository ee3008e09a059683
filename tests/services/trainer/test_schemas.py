"""The trainer on the wire."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.trainer.schemas import DatasetRequest, Record, RecordsQuery, TrainingRequest
from shared.imaging.films import Film


def test_requests_refuse_what_is_no_text() -> None:
    with pytest.raises(ValidationError, match="unicode"):
        DatasetRequest.model_validate({"name": "\ud800", "source": {"format": "phantom"}})
    with pytest.raises(ValidationError, match="valid Unicode"):
        DatasetRequest.model_validate({"name": "a", "source": {"format": "chexpert", "uri": "file:///a\0b"}})
    with pytest.raises(ValidationError, match="valid Unicode"):
        TrainingRequest.model_validate({"name": "a\0", "dataset": "ds_1"})


def test_request_becomes_the_spec_that_the_worker_reads() -> None:
    body = {"name": "a", "source": {"format": "phantom", "patients": 3}}
    assert DatasetRequest.model_validate(body).model_dump(mode="json")["source"] == {"format": "phantom", "uri": None, "patients": 3}


def test_record_tells_all_of_a_film_but_its_picture() -> None:
    film = Film(
        record=3,
        patient="p",
        study="s",
        view="AP",
        prompt="chest X-ray",
        labels={"Edema": -1, "Fracture": None},
        sex="Male",
        age=None,
        split="control",
        fold="evaluation",
        repeats=1,
        sha256="ab",
        png=b"png",
    )
    told = Record.of(film).model_dump()
    assert set(told) == {
        *("record", "prompt", "patient", "study", "view", "sex", "age", "split", "fold", "repeats", "sha256", "labels"),
    }
    assert told["labels"] == {"Edema": -1, "Fracture": None}


@pytest.mark.parametrize("query", [{"split": "test"}, {"page_size": 201}, {"page_size": "x"}, {"other": 1}])
def test_query_with_unknown_words_is_refused(query: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RecordsQuery.model_validate(query)


def test_text_inside_nested_parts_is_looked_at_too() -> None:
    with pytest.raises(ValidationError, match="valid Unicode"):
        DatasetRequest.model_validate({"name": "a", "source": {"format": "chexpert", "uri": "file:///a", "csv": "a\0b"}})
