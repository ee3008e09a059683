"""Trace ids: read from headers, made when there are none."""

from __future__ import annotations

import re

import pytest

from shared.telemetry.logs import bound_context
from shared.telemetry.tracing import current_trace_id, new_trace_id, trace_id_of, traceparent

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_valid_header_keeps_its_trace() -> None:
    assert trace_id_of(f"00-{TRACE}-00f067aa0ba902b7-01") == TRACE


@pytest.mark.parametrize("header", [None, "", "garbage", f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-{TRACE.upper()}-00f067aa0ba902b7-01"])
def test_absent_or_unreadable_header_starts_a_trace(header: str | None) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", trace_id_of(header))
    assert trace_id_of(header) != trace_id_of(header)


def test_bound_trace_is_continued_in_the_outgoing_header() -> None:
    assert current_trace_id() is None
    with bound_context(trace_id=TRACE):
        assert current_trace_id() == TRACE
        assert trace_id_of(traceparent()) == TRACE
    assert current_trace_id() is None


def test_new_trace_ids_differ() -> None:
    assert len({new_trace_id() for _ in range(100)}) == 100
