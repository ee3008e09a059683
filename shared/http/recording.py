"""What requests leave in the audit log, and what they are charged: written before anything that they do is released."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.access import NOBODY, Caller, current_caller
from shared.access.quotas import Charge, Quotas
from shared.auditing import Action, Anchors, AuditEvent, AuditLog, AuditWriter, Outcome, mark_prompts
from shared.database import Database
from shared.errors import LetheError
from shared.http.access import Requirement
from shared.http.handlers import problem_response
from shared.http.problems import problem_of, waiting_headers
from shared.jobs.records import JobWitness
from shared.settings import Settings
from shared.telemetry import current_trace_id, get_logger

# An id as the catalog makes them: nothing that a caller wrote into a field by mistake looks like one.
_ID: Final = re.compile(r"[a-z]{2,4}_[0-9a-hjkmnp-tv-z]{26}")
_DENIALS: Final = frozenset({401, 403, 429})
_ACCEPTED: Final = 202
# Asked every few seconds by machines.
_UNCOUNTED: Final = frozenset({"/livez", "/readyz", "/metrics"})
_FIRST_ERROR: Final = 400
_DEFECT: Final = 500

_LOG = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The audit log and the quotas of a service."""

    service: str
    settings: Settings
    writer: AuditWriter
    quotas: Quotas

    @classmethod
    @contextmanager
    def serving(cls, service: str, settings: Settings, database: Database) -> Iterator[Self]:
        """The ledger while the service runs; at the end all events are written and the log is anchored."""
        anchors = Anchors.open(settings)
        try:
            with AuditWriter(AuditLog.of(settings, database), anchors).serving() as writer:
                yield cls(service=service, settings=settings, writer=writer, quotas=Quotas(database, settings))
        finally:
            anchors.close()


class RequestRecord:
    """What one request does, as its route tells it; one event of the audit log comes of it."""

    def __init__(self, ledger: Ledger, *, route: str, action: Action) -> None:
        self._ledger = ledger
        self._route = route
        self._action = action
        self._moment = datetime.now(UTC)
        self._caller = NOBODY
        self._resources: dict[str, str] = {}
        self._prompts: Sequence[str] = ()
        self._images = 0
        self._charge: Charge | None = None
        self._told = False

    async def count(self, caller: Caller) -> None:
        """Tell who asks, and count the request; QuotaExceededError for one too many."""
        self._caller = caller
        if self._ledger.quotas.count_requests:
            await asyncio.to_thread(self._ledger.quotas.charge_request, caller)

    def about(self, resources: Mapping[str, str], *, prompts: Sequence[str] = (), images: int = 0) -> None:
        """Tell what the caller's words concern: of prompts only their marks are kept, of ids only what looks like an id of Lethe's."""
        self._prompts = prompts or self._prompts
        self._images = images or self._images
        self._resources |= {name: value for name, value in resources.items() if _ID.fullmatch(value)}

    def found(self, resources: Mapping[str, str]) -> None:
        """Tell what the service made or looked up, by names that are its own."""
        self._resources |= resources

    async def charge_images(self, *, model: str, prompts: Sequence[str], images_per_prompt: int) -> None:
        """Charge images before they are drawn; they are given back if nothing is released."""
        charge = self._ledger.quotas.charge_images
        self._charge = await asyncio.to_thread(charge, self._caller, model=model, prompts=prompts, images_per_prompt=images_per_prompt)

    def begin(self) -> None:
        """Write the event now, on a thread: what follows changes something before the answer can be given."""
        self._ledger.writer.write(self._event("begun")).result()
        self._told = True

    def of_job(self, *, kind: str, job_id: str, spec: dict[str, Any]) -> JobWitness:
        """What writes the event within the transaction that queues a job; `queued` follows once that is committed."""
        self.about(dict(_ids_in(spec)))
        self.found({kind: job_id})
        return lambda connection, _job: self._ledger.writer.log.append_within(connection, [self._event("done", status=_ACCEPTED)])

    def queued(self) -> None:
        """The job was committed, and its event with it."""
        self._ledger.writer.committed_elsewhere(self._event("done", status=_ACCEPTED))
        self._told = True

    async def release(self, status: int, *, named: Mapping[str, Any]) -> None:
        """Write the event before the first byte of an answer, unless it was written already; LetheError where it cannot be.

        `named` is what the path names, which exists where the answer is no error.
        """
        outcome = _outcome_of(status)
        if outcome == "done":
            self._resources = {name: str(value) for name, value in named.items()} | self._resources
        if outcome == "denied" or (self._action != "read" and not (outcome == "done" and self._told)):
            await asyncio.wrap_future(self._ledger.writer.write(self._event(outcome, status=status)))

    async def give_back(self) -> None:
        """Take the charge back, since nothing is released; where the database is away it stays."""
        charge, self._charge = self._charge, None
        if charge is None:
            return
        try:
            await asyncio.to_thread(self._ledger.quotas.give_back, charge)
        except LetheError as error:
            _LOG.warning("a charge was not given back", exc_info=error)

    def _event(self, outcome: Outcome, *, status: int | None = None) -> AuditEvent:
        """The event as it is known now."""
        return AuditEvent(
            moment=self._moment,
            service=self._ledger.service,
            action=self._action,
            outcome=outcome,
            caller=self._caller.id,
            caller_kind=self._caller.kind,
            on_behalf_of=self._caller.on_behalf_of,
            route=self._route,
            status=status,
            resources=dict(self._resources),
            prompts=mark_prompts(self._prompts, self._ledger.settings),
            images=self._images,
            trace_id=current_trace_id(),
        )


def record_of(request: Request) -> RequestRecord:
    """The record of a request."""
    record: RequestRecord = request.state.record
    return record


class Recording:
    """ASGI middleware: lets an answer out once its event is in the audit log, and answers 503 instead where it cannot be."""

    def __init__(self, app: ASGIApp, *, guarded: Sequence[tuple[APIRoute, Requirement]]) -> None:
        self._app = app
        self._guarded = guarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its record."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route, action = self._use_of(scope)
        record = RequestRecord(scope["state"]["ledger"], route=route, action=action)
        scope["state"]["record"] = record
        gate = _Gate(record, scope, receive, send)
        try:
            await self._app(scope, receive, gate.send)
        except Exception:
            await gate.fail()
            raise

    def _use_of(self, scope: Scope) -> tuple[str, Action]:
        """The template of the route that a request asks for, and what its use means; some are denied before any route is reached."""
        for route, requirement in self._guarded:
            if route.matches(scope)[0] is Match.FULL:
                return f"{scope['method']} {route.path}", requirement.action or "read"
        return "unmatched", "read"


class Counting:
    """ASGI middleware behind authentication: tells the record who asks, and refuses a caller who asks too often."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counted."""
        if scope["type"] == "http" and scope["path"] not in _UNCOUNTED:
            record: RequestRecord = scope["state"]["record"]
            try:
                await record.count(current_caller())
            except LetheError as error:
                document = problem_of(error, instance=scope["path"], trace_id=current_trace_id())
                # The body is not read, so the connection cannot be used again.
                await problem_response(document, headers={**waiting_headers(error), "Connection": "close"})(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Gate:
    """What a request's answer goes through."""

    def __init__(self, record: RequestRecord, scope: Scope, receive: Receive, send: Send) -> None:
        self._record = record
        self._scope = scope
        self._receive = receive
        self._send = send
        self._begun = False
        self._withheld = False

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on, unless its beginning was withheld."""
        if message["type"] == "http.response.start":
            await self._open(message["status"])
        if not self._withheld:
            await self._send(message)

    async def fail(self) -> None:
        """Note a request that ended in a defect before its answer began."""
        if self._begun:
            return
        await self._record.give_back()
        try:
            await self._record.release(_DEFECT, named={})
        except LetheError as error:
            _LOG.warning("a defect was not told in the audit log", exc_info=error)

    async def _open(self, status: int) -> None:
        """Write the event of an answer; without it, another answer."""
        self._begun = True
        refusal: LetheError | None = None
        try:
            await self._record.release(status, named=self._scope.get("path_params", {}))
        except LetheError as error:
            refusal = error
        if refusal is not None or status >= _FIRST_ERROR:
            await self._record.give_back()
        if refusal is not None:
            self._withheld = True
            document = problem_of(refusal, instance=self._scope["path"], trace_id=current_trace_id())
            await problem_response(document)(self._scope, self._receive, self._send)


def _outcome_of(status: int) -> Outcome:
    """What an answer's status says."""
    if status in _DENIALS:
        return "denied"
    if status >= _DEFECT:
        return "failed"
    return "refused" if status >= _FIRST_ERROR else "done"


def _ids_in(spec: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The ids that a job's spec names, by their fields; those of lists are left to the spec itself."""
    if isinstance(spec, dict):
        for field, value in spec.items():
            yield from _ids_in(value, f"{name}.{field}" if name else field)
    elif isinstance(spec, str) and _ID.fullmatch(spec):
        yield name, spec
