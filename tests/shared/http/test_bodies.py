"""What bodies derive from."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field, ValidationError

from shared.http.bodies import MAX_SAFE_INTEGER, Seed, StrictBody, StrictQuery, StrictSpec


class Inner(StrictBody):
    words: list[str] = Field(default_factory=list)


class Body(StrictBody):
    seed: Seed = 0
    rate: float = 0.5
    inner: Inner | None = None
    labels: dict[str, str] = Field(default_factory=dict)


class Query(StrictQuery):
    limit: int = 5


def test_good_body_is_read() -> None:
    body = Body.model_validate({"seed": MAX_SAFE_INTEGER, "rate": 1, "inner": {"words": ["é", "😀"]}})
    assert (body.seed, body.rate, body.inner) == (9007199254740991, 1.0, Inner(words=["é", "😀"]))


@pytest.mark.parametrize(
    "values",
    [
        {"seed": -1},
        {"seed": MAX_SAFE_INTEGER + 1},
        {"seed": 1.0},
        {"seed": "1"},
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"other": 1},
        {"inner": {"words": ["\ud800"]}},
        {"inner": {"words": ["a\0"]}},
        {"labels": {"\udfff": "x"}},
        {"labels": {"x": "\0"}},
    ],
)
def test_bad_body_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Body.model_validate(values)


def test_query_reads_text_and_refuses_the_unknown() -> None:
    assert Query.model_validate({"limit": "7"}).limit == 7
    with pytest.raises(ValidationError):
        Query.model_validate({"limits": "7"})


class Told(StrictSpec):
    steps: int
    rate: float = 0.1


@pytest.mark.parametrize("values", [{"steps": "3"}, {"steps": True}, {"steps": 3, "rate": float("nan")}, {"steps": 3, "other": 1}])
def test_bad_spec_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Told.model_validate(values)


def test_spec_cannot_be_changed() -> None:
    spec = Told(steps=3)
    with pytest.raises(ValidationError):
        spec.steps = 4
    assert spec.steps == 3
