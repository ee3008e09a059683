"""Server-sent events of a job: numbered, resumable by Last-Event-ID, with a heartbeat and a final `end`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from fastapi import Request

from shared.errors import UnavailableError
from shared.http.problems import MalformedRequestError
from shared.http.state import Draining
from shared.jobs.records import Job, JobEvent, JobStore

SSE_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

# Progress is written five times a second at most; looking more often shows nothing new.
_POLL_SECONDS: Final = 0.2
# Proxies close connections that are silent for half a minute or more.
HEARTBEAT_SECONDS: Final = 15.0
# A stream ends after this long and is resumed by its reader, whose credential is looked at again then.
STREAM_SECONDS: Final = 300.0
# An event number has at most as many digits as a 64-bit integer.
_MAX_DIGITS: Final = 18


def read_last_event_id(request: Request) -> int:
    """The number after which a caller wants to go on; 0 for the beginning."""
    header = request.headers.get("last-event-id", "0")
    if not (header.isascii() and header.isdecimal() and len(header) <= _MAX_DIGITS):
        raise MalformedRequestError("The Last-Event-ID must be the id of an event of this stream.")
    return int(header)


async def job_events(
    *,
    store: JobStore,
    job_id: str,
    after: int,
    draining: Draining,
    describe: Callable[[Job], dict[str, Any]],
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    stream_seconds: float = STREAM_SECONDS,
) -> AsyncIterator[str]:
    """The events of a job after number `after`, as text, until its end, the service's stop, or `stream_seconds`."""
    begun = silent_since = time.monotonic()
    while not draining.begun and time.monotonic() - begun < stream_seconds:
        for event in await asyncio.to_thread(_read_events, store, job_id, after, describe):
            after = event.sequence
            silent_since = time.monotonic()
            yield _frame(event)
            if event.name == "end":
                return
        if time.monotonic() - silent_since >= heartbeat_seconds:
            silent_since = time.monotonic()
            yield ": heartbeat\n\n"
        await asyncio.sleep(_POLL_SECONDS)


def _read_events(store: JobStore, job_id: str, after: int, describe: Callable[[Job], dict[str, Any]]) -> Sequence[JobEvent]:
    """What is new, the end with all that is known of the job; nothing from a database that is away, which is asked again."""
    try:
        events = store.events_since(job_id, after)
        return [replace(event, data=describe(store.get(job_id))) if event.name == "end" else event for event in events]
    except UnavailableError:
        return []


def _frame(event: JobEvent) -> str:
    """One event in the wire format; JSON without line breaks needs one data line."""
    return f"id: {event.sequence}\nevent: {event.name}\ndata: {json.dumps(event.data, separators=(',', ':'))}\n\n"
