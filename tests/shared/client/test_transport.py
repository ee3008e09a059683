"""Requests: deadlines, trace ids, problems, silence, lost answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest

from shared.client.failures import NotFoundProblemError, ProblemError, UnexpectedAnswerError
from shared.client.transport import Transport
from shared.errors import ScreenerUnavailableError, UnavailableError
from shared.telemetry import bound_context

Answer = Callable[[httpx.Request], httpx.Response]


def transport(answer: Answer, *, unavailable: type[UnavailableError] = UnavailableError) -> Transport:
    return Transport(
        "http://127.0.0.1:1",
        service="detector",
        deadline=timedelta(seconds=1),
        unavailable=unavailable,
        transport=httpx.MockTransport(answer),
    )


def silence(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("no answer", request=request)


def test_request_continues_the_trace_of_its_caller() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["traceparent"])
        return httpx.Response(200, json={})

    with bound_context(trace_id="a" * 32):
        transport(answer).get("/v1/info")
    assert seen[0].split("-")[1] == "a" * 32


def test_query_leaves_out_what_is_none() -> None:
    urls: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        urls.append(str(request.url))
        return httpx.Response(200, json={"items": []})

    assert transport(answer).get("/v1/things", split="control", page_token=None) == {"items": []}
    assert urls == ["http://127.0.0.1:1/v1/things?split=control"]


def test_problem_is_raised_as_its_error() -> None:
    problem = {"type": "urn:lethe:problem:not-found", "detail": "There is no model 'mdl_x'."}
    with pytest.raises(NotFoundProblemError, match="mdl_x"):
        transport(lambda _request: httpx.Response(404, json=problem)).get("/v1/models/mdl_x")


def test_silence_is_unavailable_and_names_service_and_place() -> None:
    with pytest.raises(UnavailableError, match=r"detector at http://127\.0\.0\.1:1 took too long"):
        transport(silence).get("/v1/info")


def test_closed_port_is_unavailable() -> None:
    closed = Transport("http://127.0.0.1:9", service="sampler", deadline=timedelta(seconds=1))
    with closed, pytest.raises(UnavailableError, match=r"sampler at .* does not answer"):
        closed.get("/v1/info")


@pytest.mark.parametrize("status", [500, 503])
def test_screener_that_cannot_judge_is_unavailable(status: int) -> None:
    problem = {"type": "urn:lethe:problem:saturated"}
    failing = transport(lambda _request: httpx.Response(status, json=problem), unavailable=ScreenerUnavailableError)
    with pytest.raises(ScreenerUnavailableError, match=str(status)):
        failing.post("/v1/screenings", {})


def test_screener_that_is_silent_is_unavailable() -> None:
    with pytest.raises(ScreenerUnavailableError):
        transport(silence, unavailable=ScreenerUnavailableError).post("/v1/screenings", {})


def test_defect_elsewhere_stays_a_problem() -> None:
    with pytest.raises(ProblemError) as caught:
        transport(lambda _request: httpx.Response(500, json={"type": "urn:lethe:problem:internal"})).get("/v1/info")
    assert caught.value.slug == "internal"


@pytest.mark.parametrize(
    "response", [httpx.Response(200, text="<html>"), httpx.Response(502, text="bad gateway"), httpx.Response(200, json=[])]
)
def test_answer_outside_the_contract_is_named(response: httpx.Response) -> None:
    with pytest.raises(UnexpectedAnswerError, match="no Lethe detector"):
        transport(lambda _request: response).get("/v1/info")


def test_lost_answer_of_a_creation_is_asked_for_again_with_the_same_key() -> None:
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) == 1:
            raise httpx.RemoteProtocolError("connection lost", request=request)
        return httpx.Response(202, json={"body": json.loads(request.content)})

    assert transport(answer).create("/v1/datasets", {"name": "a"}) == {"body": {"name": "a"}}
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_refused_creation_is_not_repeated() -> None:
    calls: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request.method)
        return httpx.Response(503, json={"type": "urn:lethe:problem:dependency-unavailable"})

    with pytest.raises(UnavailableError):
        transport(answer).create("/v1/datasets", {})
    assert calls == ["POST"]


@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False)])
def test_readiness_is_what_readyz_says(status: int, ready: bool) -> None:
    assert transport(lambda _request: httpx.Response(status)).is_ready() is ready


def test_silent_service_is_not_ready() -> None:
    assert transport(silence).is_ready() is False
