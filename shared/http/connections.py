"""Connections that wait for nobody for ever: a request's head must come and an answer be taken in time; what is no HTTP gets a problem."""

from __future__ import annotations

import asyncio
import json
import sys
from http import HTTPStatus
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from shared.http.problem_metrics import count_problem
from shared.http.problems import PROBLEM_KINDS, PROBLEM_MEDIA_TYPE, problem_document
from shared.telemetry import new_trace_id

# A head is a packet or two. Whoever needs longer holds a connection open for its own sake.
HEAD_SECONDS: Final = 10.0
# Tokens of identity providers take a few kilobytes; nothing else that callers have to say up there does.
HEAD_LIMIT_BYTES: Final = 16_384
# A caller that reads nothing of an answer for so long has gone, whatever its machine says; one that reads on may take its time.
TAKING_SECONDS: Final = 60.0
# Between two requests of one connection; longer than the pauses of a caller that polls.
IDLE_SECONDS: Final = 15


class TimedConnection(H11Protocol):
    """uvicorn's HTTP/1.1 connection with the time-outs that it lacks."""

    head_seconds = HEAD_SECONDS
    taking_seconds = TAKING_SECONDS

    _head_timer: asyncio.TimerHandle | None = None
    _taking_timer: asyncio.TimerHandle | None = None
    _untaken_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Wait for the first head from now on."""
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Read on, and wait no longer for a head that is complete."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stop_head_timer()
        self._stop_taking_timer()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait no longer than for a head for what is left of a body that nobody reads."""
        if self.conn.their_state is h11.SEND_BODY:
            self.loop.call_later(self.head_seconds, self._end_body, self.cycle)
        super().on_response_complete()  # after which the next request may have begun

    def pause_writing(self) -> None:
        """The caller reads slower than it is answered."""
        super().pause_writing()
        self._watch_taking()

    def resume_writing(self) -> None:
        """The caller has read nearly everything."""
        self._stop_taking_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, as uvicorn found while it read it."""
        del msg  # uvicorn's own sentence, in place of which there is a problem
        if getattr(sys.exception(), "error_status_hint", None) == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            self._refuse("headers-too-large", f"The request's head is larger than {HEAD_LIMIT_BYTES} bytes.")
        else:
            self._refuse("malformed-request", "This is no HTTP/1.1 request.")

    def _watch_head(self) -> None:
        """Bound the wait for a head that has not come whole."""
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._stop_head_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self._give_up)

    def _give_up(self) -> None:
        """Nothing whole came in time."""
        self._refuse("request-timeout", f"The request's head did not come within {self.head_seconds:g} seconds.")

    def _end_body(self, cycle: RequestResponseCycle) -> None:
        """The answer was given long ago, and the request has not ended yet."""
        if self.cycle is cycle and self.conn.their_state is h11.SEND_BODY:
            self.transport.abort()

    def _watch_taking(self) -> None:
        """Look after a while at what the caller has taken."""
        self._stop_taking_timer()
        self._untaken_bytes = self.transport.get_write_buffer_size()
        self._taking_timer = self.loop.call_later(self.taking_seconds, self._let_go)

    def _let_go(self) -> None:
        """End the connection, unless something was taken."""
        if self.transport.get_write_buffer_size() < self._untaken_bytes:
            self._watch_taking()
        else:
            self.transport.abort()

    def _refuse(self, slug: str, detail: str) -> None:
        """Answer a problem where an answer can still be given, and close."""
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.abort()
            return
        count_problem(slug)
        body = json.dumps(problem_document(slug, detail=detail, trace_id=new_trace_id())).encode()
        status = HTTPStatus(PROBLEM_KINDS[slug].status)
        headers = [("Content-Type", PROBLEM_MEDIA_TYPE), ("Content-Length", str(len(body))), ("Connection", "close")]
        for event in (
            h11.Response(status_code=status.value, headers=headers, reason=status.phrase.encode()),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def _stop_head_timer(self) -> None:
        """Wait for no head."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_taking_timer(self) -> None:
        """Wait for no reader."""
        if self._taking_timer is not None:
            self._taking_timer.cancel()
            self._taking_timer = None
