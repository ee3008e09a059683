"""What surrounds every request: its ids in logs and problems, its count and duration, and the answer to a defect."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.http.handlers import defect_response, stopping_response
from shared.telemetry import UNTOLD, Span, bound_context, bound_span, get_logger, span, span_id_of, trace_id_of

REQUESTS = Counter("lethe_http_requests_total", "Requests by route template, method and status.", ["route", "method", "code"])
REQUEST_SECONDS = Histogram(
    "lethe_http_request_duration_seconds",
    "From a request's first byte to the end of its response.",
    ["route", "method"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

# Asked every few seconds by machines: they would drown what callers do.
_UNOBSERVED: Final = frozenset({"/livez", "/readyz", "/metrics"})
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# What a proxy would log for a caller that went away before the answer began.
_CLIENT_CLOSED_REQUEST: Final = 499

_LOG = get_logger(__name__)


def exposition() -> Response:
    """All metrics of this process, in Prometheus' text format."""
    return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


class RequestObserver:
    """ASGI middleware: binds request and trace ids, measures, logs one line a request, and turns a defect into a problem."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, watching what comes back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        status = 0

        async def watch(message: Message) -> None:
            """Note the status and name the request in its response."""
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        started = time.perf_counter()
        header = Headers(scope=scope).get("traceparent")
        with bound_context(request_id=request_id, trace_id=trace_id_of(header)), bound_span(span_id_of(header)), _span(scope) as told:
            try:
                await self._app(scope, receive, watch)
            except asyncio.CancelledError:
                # uvicorn ends so what is not done when its patience at shutdown is over; what was accepted is answered all the same.
                if status != 0:
                    raise
                await stopping_response(scope["path"])(scope, receive, watch)
            except Exception:  # noqa: BLE001 - logged with its trace; the caller gets a problem instead of a broken connection
                _LOG.exception("request failed by a defect")
                if status == 0:
                    await defect_response(scope["path"])(scope, receive, watch)
            finally:
                if scope["path"] not in _UNOBSERVED:
                    _observe(scope, told, status=status or _CLIENT_CLOSED_REQUEST, seconds=time.perf_counter() - started)


def _span(scope: Scope) -> AbstractContextManager[Span]:
    """The span of a request; of those that nobody wants to see, none."""
    return nullcontext(UNTOLD) if scope["path"] in _UNOBSERVED else span("request", kind="server")


def _observe(scope: Scope, told: Span, *, status: int, seconds: float) -> None:
    """Count one request under its route template; paths and methods that no route knows share one label."""
    route = _route_template(scope)
    method = scope["method"] if scope["method"] in _METHODS else "OTHER"
    told.update_name(f"{method} {route}")
    told.set_attribute("http.request.method", method)
    told.set_attribute("http.route", route)
    told.set_attribute("http.response.status_code", status)
    REQUESTS.labels(route=route, method=method, code=str(status)).inc()
    REQUEST_SECONDS.labels(route=route, method=method).observe(seconds)
    _LOG.info("request", route=route, method=method, code=status, seconds=round(seconds, 4))


def _route_template(scope: Mapping[str, object]) -> str:
    """The path as its route declares it."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else "unmatched"
