"""Events as text."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

from shared.auditing import ChainedEvent
from tests.shared.auditing.conftest import make_event


def test_one_event_has_one_text() -> None:
    berlin = timezone(timedelta(hours=1))
    first = make_event(resources={"model": "mdl_1", "dataset": "ds_1"})
    second = make_event(resources={"dataset": "ds_1", "model": "mdl_1"}, moment=datetime(2026, 11, 1, 13, 0, 0, 250, tzinfo=berlin))
    assert first.content() == second.content()
    assert json.loads(first.content()) == {
        "moment": "2026-11-01T12:00:00.000250Z",
        "service": "sampler",
        "action": "generate",
        "outcome": "done",
        "caller": "ward-a",
        "caller_kind": "key",
        "on_behalf_of": None,
        "route": "POST /v1/generations",
        "status": None,
        "resources": {"dataset": "ds_1", "model": "mdl_1"},
        "prompts": [],
        "images": 0,
        "left_out": 0,
        "trace_id": None,
    }


def test_names_of_callers_are_fit_for_terminals_and_databases() -> None:
    event = make_event(caller="Dr.\0 M\n\x1b[2J\ud800", on_behalf_of="x" * 300)
    told = json.loads(event.content())
    assert told["caller"] == "Dr.? M??[2J?"
    assert told["on_behalf_of"] == "x" * 255


def test_content_that_is_no_json_any_more_is_told_as_text() -> None:
    chained = ChainedEvent(sequence=7, content="{torn", previous="a", hash="b")
    assert chained.as_json() == {"sequence": 7, "event": "{torn", "previous": "a", "hash": "b"}
    assert make_event(moment=datetime(2026, 1, 1, tzinfo=UTC)).content().isascii()
