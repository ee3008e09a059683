"""What a request may be: its head small, its body plain JSON, in time, and no larger than its route allows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import LetheError, PayloadTooLargeError
from shared.http.connections import HEAD_LIMIT_BYTES
from shared.http.handlers import problem_response
from shared.http.problems import HeadersTooLargeError, RequestTimeoutError, UnsupportedMediaTypeError, problem_of
from shared.telemetry import current_trace_id

# The largest upload comes within this time over a line of 5 Mbit/s.
BODY_SECONDS: Final = 60.0

_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
# Of a body that is refused so much is read and dropped, for so long: a connection closed on unread bytes loses the answer too.
_DROPPED_BYTES: Final = 67_108_864
_DROPPING_SECONDS: Final = 5.0


class HeadLimit:
    """ASGI middleware: refuses a large head; uvicorn's own limit sees only those that come in pieces."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http" and _head_bytes(scope) > HEAD_LIMIT_BYTES:
            error = HeadersTooLargeError(f"The request's head is larger than {HEAD_LIMIT_BYTES} bytes.")
            document = problem_of(error, trace_id=current_trace_id())  # without the path, which may be what is large
            await problem_response(document, headers={"Connection": "close"})(scope, receive, send)
            return
        await self._app(scope, receive, send)


class BodyLimit:
    """ASGI middleware: reads the body, counting what arrives whatever its headers claim, and refuses what is too large, late or no JSON."""

    def __init__(self, app: ASGIApp, *, limit_bytes: int, upload_limit_bytes: int, upload_paths: Sequence[str] = ()) -> None:
        self._app = app
        self._limit_bytes = limit_bytes
        self._upload_limit_bytes = upload_limit_bytes
        self._upload_paths = tuple(upload_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its whole body in one message."""
        if scope["type"] != "http" or scope["method"] not in _METHODS_WITH_BODY:
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read_in_time(scope, receive)
        except LetheError as error:
            document = problem_of(error, instance=scope["path"], trace_id=current_trace_id())
            # Something of the body may be unread still, so the connection cannot be used again.
            await problem_response(document, headers={"Connection": "close"})(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replay(body, receive), send)

    def _limit_for(self, path: str) -> int:
        """The limit of a route."""
        return self._upload_limit_bytes if path.startswith(self._upload_paths) else self._limit_bytes

    async def _read_in_time(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None when the caller went away before it was complete."""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await self._read(scope, receive)
        except TimeoutError as error:
            raise RequestTimeoutError(f"The body did not come within {BODY_SECONDS:g} seconds.") from error

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None when the caller went away before it was complete."""
        limit = self._limit_for(scope["path"])
        headers = Headers(scope=scope)
        too_large = PayloadTooLargeError(f"The body is larger than the {limit} bytes that this route reads.")
        claimed = headers.get("content-length", "")
        if claimed.isdecimal() and int(claimed[:20]) > limit:
            if "expect" not in headers:  # a caller that expects a word first has sent nothing yet
                await _drop(receive)
            raise too_large
        chunks: list[bytes] = []
        count = 0
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            more = message.get("more_body", False)
            count += len(chunk)
            if count > limit:
                if more:
                    await _drop(receive)
                raise too_large
            chunks.append(chunk)
        if count:
            _require_plain_json(headers)
        return b"".join(chunks)


def _head_bytes(scope: Scope) -> int:
    """How large path, query and headers are together."""
    target = len(scope.get("raw_path") or scope["path"]) + len(scope.get("query_string", b""))
    return target + sum(len(name) + len(value) for name, value in scope["headers"])


async def _drop(receive: Receive) -> None:
    """Read what is left of a body that is refused, within bounds."""
    count = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_DROPPING_SECONDS):
            while count < _DROPPED_BYTES:
                message = await receive()
                count += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _require_plain_json(headers: Headers) -> None:
    """Refuse bodies that are compressed or of another type."""
    if headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise UnsupportedMediaTypeError("The body is compressed; send it plain.")
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (media_type.startswith("application/") and media_type.endswith("+json")):
        raise UnsupportedMediaTypeError("The body must be JSON with Content-Type: application/json.")


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive channel that gives the body once and then what the connection says (that the caller went away)."""
    given = False

    async def replay() -> Message:
        """The body, then the connection's own messages."""
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
