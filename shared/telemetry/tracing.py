"""W3C trace context: the id that ties a request, its problems, its log lines and its jobs together."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from structlog.contextvars import get_contextvars

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-[0-9a-f]{2}")
# The span that whatever happens here is a part of: this process's own, or the one that the caller named.
_SPAN_ID: Final[ContextVar[str | None]] = ContextVar("lethe_span_id", default=None)


def new_trace_id() -> str:
    """A fresh trace id: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def trace_id_of(header: str | None) -> str:
    """The trace id of a `traceparent` header; a fresh one when the header is absent or unreadable."""
    match = _TRACEPARENT.fullmatch(header or "")
    if match is None or int(match["trace"], 16) == 0:
        return new_trace_id()
    return match["trace"]


def span_id_of(header: str | None) -> str | None:
    """The id of the span that a `traceparent` header names; None when the header is absent or unreadable."""
    match = _TRACEPARENT.fullmatch(header or "")
    return None if match is None or int(match["trace"], 16) == 0 or int(match["span"], 16) == 0 else match["span"]


@contextmanager
def bound_span(span_id: str | None) -> Iterator[None]:
    """Make whatever happens in the block a part of a span."""
    token = _SPAN_ID.set(span_id)
    try:
        yield
    finally:
        _SPAN_ID.reset(token)


def current_span_id() -> str | None:
    """The span around this task or thread, if any."""
    return _SPAN_ID.get()


def current_trace_id() -> str | None:
    """The trace id bound to this task or thread, if any."""
    value = get_contextvars().get("trace_id")
    return value if isinstance(value, str) else None


def traceparent() -> str:
    """The `traceparent` header that continues this task's trace in another service."""
    return f"00-{current_trace_id() or new_trace_id()}-{current_span_id() or secrets.token_hex(8)}-01"
