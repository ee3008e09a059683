"""W3C trace context: the id that ties a request, its problems, its log lines and its jobs together."""

from __future__ import annotations

import re
import secrets

from structlog.contextvars import get_contextvars

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def new_trace_id() -> str:
    """A fresh trace id: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def trace_id_of(header: str | None) -> str:
    """The trace id of a `traceparent` header; a fresh one when the header is absent or unreadable."""
    match = _TRACEPARENT.fullmatch(header or "")
    if match is None or int(match["trace"], 16) == 0:
        return new_trace_id()
    return match["trace"]


def current_trace_id() -> str | None:
    """The trace id bound to this task or thread, if any."""
    value = get_contextvars().get("trace_id")
    return value if isinstance(value, str) else None


def traceparent() -> str:
    """The `traceparent` header that continues this task's trace in another service."""
    return f"00-{current_trace_id() or new_trace_id()}-{secrets.token_hex(8)}-01"
