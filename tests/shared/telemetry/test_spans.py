"""Spans: told to a collector where there is one, in the caller's trace, without a word of what was asked."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from shared.telemetry import bound_context, bound_span, current_span_id, exporting, new_trace_id, span, span_id_of, trace_id_of, traceparent

if TYPE_CHECKING:
    from tests.fixtures.collector import Collector

CANARY = "a prompt that is nobody's business"


def test_spans_reach_the_collector_within_the_callers_trace(collector: Collector) -> None:
    header = f"00-{new_trace_id()}-00f067aa0ba902b7-01"
    with (
        exporting("lethe-test", collector.endpoint),
        bound_context(trace_id=trace_id_of(header)),
        bound_span(span_id_of(header)),
        span("request", kind="server") as server,
    ):
        server.update_name("POST /v1/generations")
        server.set_attribute("http.response.status_code", 200)
        with span("POST detector", kind="client"):
            sent = traceparent()
    client, served = collector.spans()
    assert (client.name, served.name) == ("POST detector", "POST /v1/generations")
    assert {one.trace_id.hex() for one in (client, served)} == {trace_id_of(header)}
    assert served.parent_span_id.hex() == "00f067aa0ba902b7"
    assert client.parent_span_id == served.span_id
    assert span_id_of(sent) == client.span_id.hex()
    assert [(attribute.key, attribute.value.int_value) for attribute in served.attributes] == [("http.response.status_code", 200)]


def test_root_span_belongs_to_the_trace_that_is_bound(collector: Collector) -> None:
    trace_id = new_trace_id()
    with exporting("lethe-test", collector.endpoint), bound_context(trace_id=trace_id), span("job training", kind="consumer", attempt=2):
        pass
    (job,) = collector.spans()
    assert (job.trace_id.hex(), job.parent_span_id) == (trace_id, b"")


def test_failure_is_told_by_its_kind_without_its_message(collector: Collector) -> None:
    with pytest.raises(ValueError, match=CANARY), exporting("lethe-test", collector.endpoint), span("request", kind="server"):
        raise ValueError(CANARY)
    (failed,) = collector.spans()
    assert [(attribute.key, attribute.value.string_value) for attribute in failed.attributes] == [("error.type", "ValueError")]
    assert failed.status.code == 2
    assert CANARY.encode() not in b"".join(collector.bodies)


def test_collector_that_is_away_fails_nothing(free_tcp_port: int) -> None:
    with exporting("lethe-test", f"http://127.0.0.1:{free_tcp_port}/v1/traces"), span("request", kind="server") as told:
        told.set_attribute("http.response.status_code", 200)


def test_without_an_endpoint_nothing_is_imported_and_the_callers_span_goes_on() -> None:
    code = (
        "import sys; from shared.telemetry import *\n"
        "with exporting('x', ''), span('request', kind='server') as told: told.set_attribute('a', 1); told.update_name('b')\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with bound_span("00f067aa0ba902b7"):
        assert span_id_of(traceparent()) == current_span_id() == "00f067aa0ba902b7"


@pytest.mark.parametrize("header", [None, "", "nonsense", f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-{'a' * 32}-{'0' * 16}-01"])
def test_unreadable_header_names_no_span(header: str | None) -> None:
    assert span_id_of(header) is None
