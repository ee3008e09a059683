"""Following long work to its end: server-sent events, resumed where they broke off, and polling where they do not come."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import httpx

from shared.client.failures import ProblemError, problem_error
from shared.client.replies import Operation, Progress
from shared.client.transport import Transport
from shared.errors import JobCancelledError, UnavailableError

ProgressCallback = Callable[[Progress], None]

_RECONNECT_SECONDS: Final = 0.5
_POLL_SECONDS: Final = 1.0
# After this many streams in a row that brought nothing, something between us and the service swallows them.
_BARREN_STREAMS: Final = 3
# A service that restarts is back within a minute; its job goes on from the record.
_PATIENCE: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    number: str
    name: str
    data: Any


def ignore_progress(_progress: Progress) -> None:
    """The callback of whoever only wants the end."""


def wait_for(
    transport: Transport, path: str, *, on_progress: ProgressCallback = ignore_progress, patience: timedelta = _PATIENCE
) -> Operation:
    """The operation at `path` once it succeeded; a failure is raised as its problem, a cancellation as JobCancelledError.

    A service that stays away longer than `patience` ends the wait with UnavailableError; the operation itself goes on.
    """
    _follow_events(transport, path, on_progress)
    # The stream's last envelope lacks what a service adds to the finished resource; and a stream may never come.
    return _succeeded(_poll(transport, path, on_progress, patience))


def _follow_events(transport: Transport, path: str, on_progress: ProgressCallback) -> None:
    """Pass progress on until the operation ends, or until streams bring nothing more."""
    last, barren = "0", 0
    while barren < _BARREN_STREAMS:
        before = last
        try:
            with transport.stream(f"{path}/events", headers={"Last-Event-ID": last}) as response:
                if response.status_code == httpx.codes.NO_CONTENT:
                    return
                for event in read_events(response.iter_lines()):
                    last = event.number or last
                    if event.name == "end":
                        return
                    if event.name == "progress":
                        on_progress(Progress.model_validate(event.data["progress"]))
        except ProblemError:
            # Polling meets the same problem and raises it, or outlasts it.
            return
        except httpx.TransportError:
            # Whether the service is gone or only the stream is, the next attempt or polling finds out.
            time.sleep(_RECONNECT_SECONDS)
        barren = 0 if last != before else barren + 1


def read_events(lines: Iterator[str]) -> Iterator[Event]:
    """The events in the lines of a stream; comments are passed over, data are JSON."""
    number, name, data = "", "message", ""
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield Event(number, name, json.loads(data))
            name, data = "message", ""
        elif field == "id":
            number = value
        elif field == "event":
            name = value
        elif field == "data":
            data += value


def _poll(transport: Transport, path: str, on_progress: ProgressCallback, patience: timedelta) -> Operation:
    """The settled operation, asked for once a second."""
    seen_at = time.monotonic()
    while True:
        try:
            operation = Operation.model_validate(transport.get(path))
        except UnavailableError:
            if time.monotonic() - seen_at > patience.total_seconds():
                raise
        else:
            if operation.is_settled:
                return operation
            seen_at = time.monotonic()
            on_progress(operation.progress)
        time.sleep(_POLL_SECONDS)


def _succeeded(operation: Operation) -> Operation:
    """The operation if it succeeded; otherwise what ended it, raised."""
    if operation.state == "cancelled":
        raise JobCancelledError(f"{operation.id} was cancelled.")
    if operation.state == "failed":
        error = operation.error or {}
        raise problem_error(error, status=int(error.get("status", 500)))
    return operation
