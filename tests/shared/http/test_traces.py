"""A caller's trace, from the request through the job's record into the job's own process, as a collector sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.fixtures.collector import Collector

pytestmark = pytest.mark.server
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CANARY = "a prompt that is nobody's business"


def test_trace_goes_through_the_service_into_the_process_of_its_job(
    start_server: Callable[[], Any], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LETHE_OTLP_ENDPOINT", collector.endpoint)
    with start_server() as server:
        created = server.client.post(
            "/v1/things", json={"prompt": CANARY, "steps": 3}, headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        )
        deadline = time.monotonic() + 120
        while server.client.get(created.headers["location"]).json()["state"] != "succeeded":
            assert time.monotonic() < deadline, server.logs()
            time.sleep(0.1)
        server.process.terminate()
        assert server.process.wait(timeout=60) == 0
        logs = server.logs()
    ours = {span.name: span for span in collector.spans() if span.trace_id.hex() == TRACE}
    assert set(ours) == {"POST /v1/things", "job steps"}
    assert ours["POST /v1/things"].parent_span_id.hex() == "00f067aa0ba902b7"
    assert [line for line in logs.splitlines() if TRACE in line and "job started" in line]
    assert CANARY.encode() not in b"".join(collector.bodies)
    assert CANARY not in logs
