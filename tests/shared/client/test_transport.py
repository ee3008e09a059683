"""Requests: deadlines, trace ids, problems, silence, lost answers."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from pydantic import SecretStr

from shared.access import ANONYMOUS, NOBODY, Caller, bound_caller
from shared.client.failures import NotFoundProblemError, ProblemError, UnauthenticatedProblemError, UnexpectedAnswerError
from shared.client.transport import Transport
from shared.errors import ScreenerUnavailableError, UnavailableError
from shared.telemetry import bound_context
from tests.fixtures.certificates import Certificate

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
    with closed, pytest.raises(UnavailableError, match=r"sampler at .* does not answer; .*LETHE_SAMPLER_URL"):
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


@pytest.mark.parametrize("status", [401, 403])
def test_screener_that_does_not_let_the_service_in_is_unavailable(status: int) -> None:
    problem = {"type": "urn:lethe:problem:unauthenticated"}
    failing = transport(lambda _request: httpx.Response(status, json=problem), unavailable=ScreenerUnavailableError)
    with pytest.raises(ScreenerUnavailableError, match=str(status)):
        failing.post("/v1/screenings", {})


def test_credential_that_is_not_accepted_is_told_to_who_shows_it() -> None:
    problem = {"type": "urn:lethe:problem:unauthenticated", "detail": "The API key has expired."}
    with pytest.raises(UnauthenticatedProblemError, match="expired"):
        transport(lambda _request: httpx.Response(401, json=problem)).get("/v1/info")


def headers_of(caller: Caller, *, key: SecretStr | None) -> httpx.Headers:
    """What a request of this caller carries."""
    seen: list[httpx.Headers] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(200, json={})

    asking = Transport(
        "http://127.0.0.1:1", service="detector", deadline=timedelta(seconds=1), key=key, transport=httpx.MockTransport(answer)
    )
    with bound_caller(caller):
        asking.get("/v1/info")
    return seen[0]


def test_key_is_shown_and_the_caller_named() -> None:
    person = Caller(id="person:dr-grey", kind="person", scopes=frozenset({"mitigate"}))
    headers = headers_of(person, key=SecretStr("lethe_key"))
    assert headers["Authorization"] == "Bearer lethe_key"
    assert headers["Lethe-On-Behalf-Of"] == "person:dr-grey"


def test_caller_of_a_service_stays_the_one_that_is_named() -> None:
    service = Caller(id="key_mitigator", kind="service", scopes=frozenset({"score"}), on_behalf_of="person:dr-grey")
    assert headers_of(service, key=SecretStr("lethe_key"))["Lethe-On-Behalf-Of"] == "person:dr-grey"


@pytest.mark.parametrize("caller", [ANONYMOUS, NOBODY])
def test_without_a_caller_nobody_is_named_and_without_a_key_nothing_shown(caller: Caller) -> None:
    headers = headers_of(caller, key=None)
    assert "Authorization" not in headers
    assert "Lethe-On-Behalf-Of" not in headers


@pytest.mark.server
def test_service_behind_tls_is_asked_where_the_system_trusts_its_certificate(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(certificate) as url:
        refused = pytest.raises(UnavailableError, match=r"not trusted here \(self-signed certificate\); SSL_CERT_FILE")
        with Transport(url, service="detector", deadline=timedelta(seconds=10)) as distrusting, refused:
            distrusting.get("/v1/info")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.chain))
        with Transport(url, service="detector", deadline=timedelta(seconds=10)) as trusting:
            assert trusting.get("/v1/info") == {"service": "detector"}


def test_service_without_tls_is_told_from_one_that_is_away() -> None:
    with served(None) as url:
        in_the_clear = Transport(url.replace("http:", "https:"), service="detector", deadline=timedelta(seconds=10))
        with in_the_clear, pytest.raises(UnavailableError, match=r"speaks no TLS; let LETHE_DETECTOR_URL begin with http://"):
            in_the_clear.get("/v1/info")


@contextmanager
def served(certificate: Certificate | None) -> Iterator[str]:
    """A server that answers one object, and shows the certificate if it has one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"service": "detector"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.chain, certificate.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
