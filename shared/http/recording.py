"""What requests leave in the audit log, and what they are charged: written before anything that they do is released."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Self, TypeVar

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.access import NOBODY, Caller, current_caller
from shared.access.quotas import Charge, Quotas
from shared.auditing import Action, Anchors, AuditEvent, AuditLog, AuditWriter, Outcome, mark_prompts
from shared.database import Database
from shared.errors import LetheError
from shared.http.access import Requirement, asked_for
from shared.http.handlers import problem_response
from shared.http.problems import problem_of, waiting_headers
from shared.jobs.records import JobWitness
from shared.settings import Settings
from shared.telemetry import current_trace_id, get_logger

# An id as the catalog makes them: nothing that a caller wrote into a field by mistake looks like one.
_ID: Final = re.compile(r"[a-z]{2,4}_[0-9a-hjkmnp-tv-z]{26}")
_UNAUTHENTICATED: Final = 401
_DENIALS: Final = frozenset({_UNAUTHENTICATED, 403, 429})
_ACCEPTED: Final = 202
# Asked every few seconds by machines.
_UNCOUNTED: Final = frozenset({"/livez", "/readyz", "/metrics"})
_FIRST_ERROR: Final = 400
_DEFECT: Final = 500
_STOPPING: Final = 503
# Long enough to see an attempt begin and end, and a day of them on one route is some megabytes.
STRANGER_SECONDS: Final = 10.0
# Commits take milliseconds; a database that is away fails them sooner or not at all.
_SETTLING_SECONDS: Final = 5.0

ResultT = TypeVar("ResultT")

_LOG = get_logger(__name__)


class Strangers:
    """Bounds the events of callers who showed nothing valid: one in a while for each route, status and key that was valid once.

    The next one tells how many were left out.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._told: dict[tuple[str, int, str], float] = {}
        self._left_out: Counter[tuple[str, int, str]] = Counter()

    def left_out(self, route: str, status: int, caller: Caller) -> int | None:
        """How many were left out before this one; None where this one is to be left out too."""
        kind, now = (route, status, caller.id), self._now()
        if now - self._told.get(kind, -math.inf) < STRANGER_SECONDS:
            self._left_out[kind] += 1
            return None
        self._told[kind] = now
        return self._left_out.pop(kind, 0)


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The audit log and the quotas of a service."""

    service: str
    settings: Settings
    writer: AuditWriter
    quotas: Quotas
    strangers: Strangers = field(default_factory=Strangers)
    answering: set[asyncio.Future[None]] = field(default_factory=set)

    async def settled(self) -> None:
        """Wait for requests that were cancelled and still tell what became of them, since nothing is written once this ledger is closed."""
        if self.answering:
            await asyncio.wait(self.answering, timeout=_SETTLING_SECONDS)

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
        self._charging: asyncio.Task[Charge | None] | None = None
        self._lasting: asyncio.Task[Any] | None = None
        self._told = False

    def name(self, caller: Caller) -> None:
        """Tell who asks."""
        self._caller = caller

    async def count(self) -> None:
        """Count the request; QuotaExceededError for one too many."""
        if self._ledger.quotas.count_requests:
            await asyncio.to_thread(self._ledger.quotas.charge_request, self._caller)

    def about(self, resources: Mapping[str, str], *, prompts: Sequence[str] = (), images: int = 0) -> None:
        """Tell what the caller's words concern: of prompts only their marks are kept, of ids only what looks like an id of Lethe's."""
        self._prompts = prompts or self._prompts
        self._images = images or self._images
        self._resources |= {name: value for name, value in resources.items() if _ID.fullmatch(value)}

    def found(self, resources: Mapping[str, str]) -> None:
        """Tell what the service made or looked up, by names that are its own."""
        self._resources |= resources

    async def charge_images(self, *, model_digest: str, token_ids: Sequence[Sequence[int]], images_per_prompt: int) -> None:
        """Charge images before they are drawn; they are given back if nothing is released, also where the caller leaves meanwhile."""
        charge = partial(self._ledger.quotas.charge_images, self._caller, model_digest=model_digest, token_ids=token_ids)
        self._charging = asyncio.create_task(asyncio.to_thread(charge, images_per_prompt=images_per_prompt))
        await asyncio.shield(self._charging)

    def keep_charge(self) -> None:
        """What was drawn may be asked for again from now on, so it stays charged whatever becomes of this answer."""
        self._charging = None

    def begin(self) -> None:
        """Write the event now, on a thread: what follows changes something before the answer can be given."""
        self._ledger.writer.write(self._event("begun")).result()
        self._told = True

    async def lasting(self, change: Callable[[], ResultT]) -> ResultT:
        """Begin, and change something on a thread, to the end even if the caller leaves: where that succeeds, its charge stays."""

        def work() -> ResultT:
            """Both, one after the other."""
            self.begin()
            return change()

        self._lasting = asyncio.create_task(asyncio.to_thread(work))
        result: ResultT = await asyncio.shield(self._lasting)
        return result

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
        is_told = await self._has_lasted() or (outcome == "done" and self._told)
        if outcome != "denied" and (self._action == "read" or is_told):
            return
        is_stranger = self._caller is NOBODY or status == _UNAUTHENTICATED
        left_out = self._ledger.strangers.left_out(self._route, status, self._caller) if is_stranger else 0
        if left_out is not None:
            await asyncio.wrap_future(self._ledger.writer.write(self._event(outcome, status=status, left_out=left_out)))

    async def give_back(self) -> None:
        """Take the charge back, since nothing is released; where the database is away it stays."""
        charging, self._charging = self._charging, None
        if charging is not None:
            await asyncio.shield(self._give_back(charging))  # to the end, since it is tried once

    async def _give_back(self, charging: asyncio.Task[Charge | None]) -> None:
        """Take back what was charged, once that is known, unless a change was made that stays."""
        if await self._has_lasted():
            return
        await asyncio.wait([charging])
        charge = None if charging.exception() else charging.result()
        if charge is None:
            return
        try:
            await asyncio.to_thread(self._ledger.quotas.give_back, charge)
        except LetheError as error:
            _LOG.warning("a charge was not given back", exc_info=error)

    async def _has_lasted(self) -> bool:
        """Whether a change was made that stays, though its caller may have left."""
        if self._lasting is None:
            return False
        await asyncio.wait([self._lasting])
        return self._lasting.exception() is None

    def _event(self, outcome: Outcome, *, status: int | None = None, left_out: int = 0) -> AuditEvent:
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
            left_out=left_out,
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
        ended = asyncio.get_running_loop().create_future()
        answering = scope["state"]["ledger"].answering
        answering.add(ended)
        try:
            await self._app(scope, receive, gate.send)
        except asyncio.CancelledError:  # the patience of a service that stops is over
            await asyncio.shield(gate.fail(_STOPPING))
            raise
        except Exception:
            await gate.fail(_DEFECT)
            raise
        finally:
            answering.discard(ended)
            ended.set_result(None)

    def _use_of(self, scope: Scope) -> tuple[str, Action]:
        """The template of the route that a request asks for, and what its use means; some are denied before any route is reached."""
        found = asked_for(scope, self._guarded)
        if found is None:
            return "unmatched", "read"
        route, requirement = found
        return f"{scope['method']} {route.path}", requirement.action or "read"


class Counting:
    """ASGI middleware behind authentication: tells the record who asks, and refuses a caller who asks too often."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record: RequestRecord = scope["state"]["record"]
        record.name(current_caller())
        if scope["path"] not in _UNCOUNTED:
            try:
                await record.count()
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

    async def fail(self, status: int) -> None:
        """Note a request that ended before its answer began."""
        if self._begun:
            return
        try:
            await self._record.release(status, named={})  # first, because a writer that stops takes no more events soon
        except LetheError as error:
            _LOG.warning("a failed request was not told in the audit log", exc_info=error)
        finally:
            await self._record.give_back()

    async def _open(self, status: int) -> None:
        """Write the event of an answer; without it, another answer."""
        refusal: LetheError | None = None
        try:
            await self._record.release(status, named=self._scope.get("path_params", {}))
        except LetheError as error:
            refusal = error
        if refusal is not None or status >= _FIRST_ERROR:
            await self._record.give_back()
        self._begun = True  # not before: an answer that is cancelled while its event is written is none
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
