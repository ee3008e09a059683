"""Bodies: counted as they arrive, refused when too large, compressed or no JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import REGISTRY
from starlette.types import Message, Receive, Scope, Send

from shared.http import limits
from shared.http.connections import HEAD_LIMIT_BYTES
from shared.http.limits import BodyLimit

pytestmark = pytest.mark.anyio
JSON = {"Content-Type": "application/json"}


def rejected() -> float:
    return REGISTRY.get_sample_value("lethe_requests_rejected_total", {"reason": "body"}) or 0.0


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """A body without Content-Length."""
    for part in parts:
        yield part


async def test_declared_length_over_the_limit_is_refused(service: Any) -> None:
    before = rejected()
    response = await service.client.post("/v1/things", content=b" " * 4097, headers=JSON)
    assert response.status_code == 413
    assert response.json()["type"] == "urn:lethe:problem:payload-too-large"
    assert "4096" in response.json()["detail"]
    assert response.headers["connection"] == "close"
    assert rejected() == before + 1


async def test_undeclared_length_over_the_limit_is_refused(service: Any) -> None:
    response = await service.client.post("/v1/things", content=chunks(b'{"prompt": "', b"a" * 4096, b'"}'), headers=JSON)
    assert response.status_code == 413


async def test_body_at_the_limit_is_read_whole(service: Any) -> None:
    body = b'{"error": "NotFoundError", "text": "x"}'
    response = await service.client.post("/v1/raise", content=chunks(body, b" " * (4096 - len(body))), headers=JSON)
    assert response.status_code == 404


async def test_lying_length_is_not_trusted() -> None:
    """A server may pass on more than was declared; the count decides."""
    sent: list[Message] = []
    messages: list[Message] = [{"type": "http.request", "body": b"x" * 8, "more_body": more} for more in (False, True, True)]

    async def receive() -> Message:
        return messages.pop()

    async def send(message: Message) -> None:
        sent.append(message)

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        pytest.fail("the app must not be reached")

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"2")]}
    await BodyLimit(app, limit_bytes=16, upload_limit_bytes=16)(scope, receive, send)
    assert sent[0]["status"] == 413


async def test_caller_that_leaves_half_way_reaches_no_route() -> None:
    messages: list[Message] = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Message:
        return messages.pop()

    async def send(_message: Message) -> None:
        pytest.fail("nobody listens")

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        pytest.fail("the app must not be reached")

    await BodyLimit(app, limit_bytes=16, upload_limit_bytes=16)(
        {"type": "http", "method": "POST", "path": "/", "headers": []}, receive, send
    )
    assert messages == []


async def test_upload_route_takes_more_and_has_its_own_limit(service: Any) -> None:
    fits = await service.client.post("/v1/uploads", json={"data": "x" * 60000})
    assert fits.json() == {"length": 60000}
    assert (await service.client.post("/v1/uploads", json={"data": "x" * 66000})).status_code == 413


@pytest.mark.parametrize(
    "headers", [{"Content-Type": "text/plain"}, {}, {"Content-Type": "multipart/form-data"}, JSON | {"Content-Encoding": "gzip"}]
)
async def test_body_that_is_no_plain_json_is_refused(service: Any, headers: dict[str, str]) -> None:
    response = await service.client.post("/v1/things", content=b"{}", headers=headers)
    assert response.status_code == 415
    assert response.json()["type"] == "urn:lethe:problem:unsupported-media-type"


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/merge-patch+json"])
async def test_json_by_any_of_its_names_is_read(service: Any, media_type: str) -> None:
    response = await service.client.post("/v1/things", content=b'{"prompt": "p"}', headers={"Content-Type": media_type})
    assert response.status_code == 202


async def test_body_that_does_not_come_is_answered_408(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.05)
    sent: list[Message] = []
    messages: list[Message] = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Message:
        return messages.pop() if messages else await asyncio.Future()

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/things", "headers": []}
    await BodyLimit(service.app, limit_bytes=16, upload_limit_bytes=16)(scope, receive, send)
    assert sent[0]["status"] == 408
    assert b"urn:lethe:problem:request-timeout" in sent[1]["body"]
    assert (b"connection", b"close") in sent[0]["headers"]


async def test_rest_of_a_refused_body_is_read_so_that_the_answer_arrives() -> None:
    messages: list[Message] = [{"type": "http.request", "body": b"x" * 16, "more_body": more} for more in (False, True, True)]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop()

    async def send(message: Message) -> None:
        assert messages == []
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"48")]}
    await BodyLimit(unreached, limit_bytes=16, upload_limit_bytes=16)(scope, receive, send)
    assert sent[0]["status"] == 413


async def test_caller_that_asks_before_it_sends_is_refused_at_once() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        pytest.fail("nothing is to be sent")

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-length", b"48"), (b"expect", b"100-continue")]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    await BodyLimit(unreached, limit_bytes=16, upload_limit_bytes=16)(scope, receive, send)
    assert sent[0]["status"] == 413


@pytest.mark.parametrize("large", [{"headers": {"X-Long": "a" * HEAD_LIMIT_BYTES}}, {"params": {"page_token": "a" * HEAD_LIMIT_BYTES}}])
async def test_large_head_is_refused_without_being_repeated(service: Any, large: dict[str, Any]) -> None:
    response = await service.client.get("/v1/numbers", **large)
    assert response.status_code == 431
    assert response.json()["type"] == "urn:lethe:problem:headers-too-large"
    assert "aaaa" not in response.text


async def test_head_below_the_limit_is_read(service: Any) -> None:
    assert (await service.client.get("/v1/numbers", headers={"X-Long": "a" * (HEAD_LIMIT_BYTES // 2)})).status_code == 200


async def unreached(_scope: Scope, _receive: Receive, _send: Send) -> None:
    pytest.fail("the app must not be reached")
