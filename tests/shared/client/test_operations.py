"""Long work is followed through broken streams, restarts and proxies that swallow events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.client import operations
from shared.client.failures import NotFoundProblemError, ProblemError
from shared.client.operations import Event, read_events, wait_for
from shared.client.replies import Progress
from shared.client.transport import Transport
from shared.errors import JobCancelledError, UnavailableError
from shared.http.events import job_events
from shared.http.operations import envelope as http_envelope
from shared.http.state import Draining
from shared.jobs.records import JobStore

Answer = Callable[[httpx.Request], httpx.Response]
PATH = "/v1/training-jobs/job_1"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations.time, "sleep", lambda _seconds: None)


def transport(answer: Answer) -> Transport:
    return Transport("http://127.0.0.1:1", service="trainer", deadline=timedelta(seconds=1), transport=httpx.MockTransport(answer))


def envelope(state: str, **fields: Any) -> dict[str, Any]:
    return {"id": "job_1", "kind": "training", "state": state, "progress": {"step": 3, "total": 9, "message": "", "values": {}}, **fields}


def frame(number: int, name: str, data: dict[str, Any]) -> str:
    told = {"state": "running", "attempt": 1, "progress": data}
    return f"id: {number}\nevent: {name}\ndata: {json.dumps(told)}\n\n"


class Service:
    """Answers streams from a list, one a connection, and the operation itself."""

    def __init__(self, streams: list[str | int | Exception], operation: dict[str, Any]) -> None:
        self._streams = streams
        self._operation = operation
        self.resumed_after: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/events"):
            return httpx.Response(200, json=self._operation)
        self.resumed_after.append(request.headers["last-event-id"])
        stream = self._streams.pop(0)
        if isinstance(stream, Exception):
            raise stream
        return httpx.Response(stream) if isinstance(stream, int) else httpx.Response(200, text=stream)


def test_stream_to_the_end_reports_progress_and_answers_the_finished_resource() -> None:
    service = Service(
        [frame(1, "state", {"state": "running"}) + ": heartbeat\n\n" + frame(2, "progress", {"step": 4, "total": 9}) + frame(3, "end", {})],
        envelope("succeeded", result={"model": "mdl_1"}),
    )
    seen: list[Progress] = []
    operation = wait_for(transport(service), PATH, on_progress=seen.append)
    assert operation.result == {"model": "mdl_1"}
    assert [(progress.step, progress.total) for progress in seen] == [(4, 9)]


async def test_stream_of_a_real_job_is_understood(tmp_path: Path) -> None:
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}")
    store.prepare()
    store.create(job_id="job_1", kind="training", spec={})
    claimed = store.claim(kinds=["training"], owner="me", lease=timedelta(minutes=1))
    assert claimed is not None
    store.report(job_id="job_1", attempt=claimed.attempt, step=3, total=7, message="denoiser", reported={"loss": 0.5})
    store.succeed(job_id="job_1", attempt=claimed.attempt, result={"model": "mdl_1"})
    events = job_events(store=store, job_id="job_1", after=0, draining=Draining(), describe=http_envelope)
    stream = "".join([event async for event in events])
    settled = http_envelope(store.get("job_1"))
    store.close()
    seen: list[Progress] = []
    operation = wait_for(transport(Service([stream], settled)), PATH, on_progress=seen.append)
    assert operation.result == {"model": "mdl_1"}
    assert [(progress.step, progress.total, progress.message, progress.values) for progress in seen] == [(3, 7, "denoiser", {"loss": 0.5})]


def test_broken_stream_is_resumed_after_its_last_event() -> None:
    service = Service(
        [frame(1, "progress", {"step": 1}), httpx.ConnectError("restarting"), frame(2, "progress", {"step": 2}), frame(3, "end", {})],
        envelope("succeeded", result={}),
    )
    seen: list[Progress] = []
    wait_for(transport(service), PATH, on_progress=seen.append)
    assert service.resumed_after == ["0", "1", "1", "2"]
    assert [progress.step for progress in seen] == [1, 2]


def test_stream_that_has_nothing_left_asks_for_the_operation() -> None:
    assert wait_for(transport(Service([204], envelope("succeeded", result={"a": 1}))), PATH).result == {"a": 1}


def test_streams_that_bring_nothing_are_given_up_for_polling() -> None:
    answers = iter([envelope("running"), envelope("succeeded", result={})])
    streams = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal streams
        if request.url.path.endswith("/events"):
            streams += 1
            return httpx.Response(200, text=": heartbeat\n\n")
        return httpx.Response(200, json=next(answers))

    seen: list[Progress] = []
    assert wait_for(transport(answer), PATH, on_progress=seen.append).state == "succeeded"
    assert streams == 3
    assert [progress.step for progress in seen] == [3]


def test_failed_operation_is_raised_as_its_problem() -> None:
    problem = {"type": "urn:lethe:problem:validation", "status": 422, "detail": "Row 17 has no Path."}
    with pytest.raises(ProblemError, match="Row 17") as caught:
        wait_for(transport(Service([204], envelope("failed", error=problem))), PATH)
    assert (caught.value.slug, caught.value.status) == ("validation", 422)


def test_cancelled_operation_is_raised() -> None:
    with pytest.raises(JobCancelledError, match="job_1"):
        wait_for(transport(Service([204], envelope("cancelled"))), PATH)


def test_unknown_operation_is_raised_at_once() -> None:
    calls: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request.url.path)
        return httpx.Response(404, json={"type": "urn:lethe:problem:not-found", "detail": "no job"})

    with pytest.raises(NotFoundProblemError):
        wait_for(transport(answer), PATH)
    assert calls == [f"{PATH}/events", PATH]


def test_service_that_comes_back_in_time_is_waited_for() -> None:
    polls: Iterator[httpx.Response | Exception] = iter(
        [httpx.ConnectError("away"), httpx.Response(503, json={"type": "urn:lethe:problem:dependency-unavailable"})]
    )

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            raise httpx.ConnectError("away", request=request)
        reply = next(polls, httpx.Response(200, json=envelope("succeeded", result={"model": "m"})))
        if isinstance(reply, Exception):
            raise reply
        return reply

    assert wait_for(transport(answer), PATH).result == {"model": "m"}


def test_service_that_stays_away_ends_the_wait() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("away", request=request)

    with pytest.raises(UnavailableError, match="trainer"):
        wait_for(transport(answer), PATH, patience=timedelta(0))


def test_lines_of_a_stream_become_events() -> None:
    lines = [": heartbeat", "", "id: 4", "event: progress", 'data: {"step":1}', "", "data: 5", "", "id: 5", ""]
    assert list(read_events(iter(lines))) == [Event("4", "progress", {"step": 1}), Event("4", "message", 5)]
