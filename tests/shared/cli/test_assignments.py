"""Fields assigned on the command line."""

from __future__ import annotations

from typing import Any

import pytest

from shared.cli.assignments import assign
from shared.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("assignments", "body"),
    [
        (None, {"a": {"b": 1}, "n": None}),
        (["a.c=2"], {"a": {"b": 1, "c": 2}, "n": None}),
        (["a.b=x=y"], {"a": {"b": "x=y"}, "n": None}),
        (["n.deep.er=true"], {"a": {"b": 1}, "n": {"deep": {"er": True}}}),
        (["a=null", 'l=[1, "2"]'], {"a": None, "n": None, "l": [1, "2"]}),
        (["a.b=1e-5"], {"a": {"b": 1e-5}, "n": None}),
        (["a.b="], {"a": {"b": ""}, "n": None}),
    ],
)
def test_assignments_reach_their_field(assignments: list[str] | None, body: dict[str, Any]) -> None:
    given = {"a": {"b": 1}, "n": None}
    assert assign(given, assignments) == body
    assert given == {"a": {"b": 1}, "n": None}


@pytest.mark.parametrize("assignment", ["a", "=1", "a..b=1", ".a=1", ""])
def test_assignment_without_field_is_refused(assignment: str) -> None:
    with pytest.raises(InvalidRequestError, match="FIELD=VALUE"):
        assign({}, [assignment])
