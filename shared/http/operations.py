"""Long work over HTTP: the envelope of a job, and the routes that create, read, list, stream and cancel it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from shared.catalog.ids import new_id_like
from shared.errors import ConflictError, NotFoundError
from shared.http.access import requires
from shared.http.bodies import StrictBody
from shared.http.events import SSE_HEADERS, job_events, read_last_event_id
from shared.http.idempotency import IDEMPOTENT, idempotency_key
from shared.http.paging import Page, PageQuery, PageTokens
from shared.http.recording import RequestRecord, record_of
from shared.http.state import JobsState, draining_of, read_state
from shared.jobs.idempotency import IdempotencyKey, canonical_digest
from shared.jobs.records import Job, JobState
from shared.telemetry import current_trace_id

StateT = TypeVar("StateT", bound=JobsState)
Extend = Callable[[StateT, Job], dict[str, Any]]
Missing = Callable[[StateT, str], dict[str, Any]]

JobId = Annotated[str, Path(min_length=1, max_length=64, description="The id that the POST answered.")]

# When a caller that polls should ask for the first time.
_RETRY_AFTER_SECONDS: Final = 1
# One event of a stream.
_EVENT_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "event": {"enum": ["state", "progress", "end"]}, "data": {"type": "string"}},
    "required": ["id", "event", "data"],
}
_RESUMABLE: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "Last-Event-ID",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
            "description": "The id of the last event that was seen; the stream goes on after it.",
        }
    ]
}


class Progress(BaseModel):
    """How far an operation is."""

    step: int = Field(description="Steps done.")
    total: int = Field(description="Steps in all; 0 while unknown.")
    message: str = Field(description="What is going on.")
    values: dict[str, Any] = Field(description="Figures of the last report, such as the loss.")


class Operation(BaseModel):
    """Long work: created with 202, polled, streamed, cancelled; some kinds add fields once they have succeeded."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(description="The operation's id; for data sets, galleries and calibrations also the resource's.")
    kind: str = Field(description="What kind of work it is.")
    state: JobState
    progress: Progress
    created: str = Field(description="When it was asked for (RFC 3339, UTC).")
    updated: str = Field(description="When its record changed last (RFC 3339, UTC).")
    result: dict[str, Any] | None = Field(description="What it made; null until it has succeeded.")
    error: dict[str, Any] | None = Field(description="The problem that ended it; null unless it failed.")


def envelope(job: Job) -> dict[str, Any]:
    """The operation of a job, as JSON."""
    operation = Operation(
        id=job.id,
        kind=job.kind,
        state=job.state,
        progress=Progress(step=job.step, total=job.total, message=job.message, values=job.reported),
        created=rfc3339(job.created),
        updated=rfc3339(job.updated),
        result=job.result,
        error=job.problem,
    )
    return operation.model_dump(mode="json")


def rfc3339(moment: datetime) -> str:
    """A moment as RFC 3339 in UTC, to the microsecond."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


async def accept_job(
    request: Request,
    state: JobsState,
    *,
    noun: str,
    kind: str,
    job_id: str,
    spec: dict[str, Any],
    body: StrictBody,
    route: str | None = None,
) -> JSONResponse:
    """Queue a job and answer 202 with its envelope; a repeated Idempotency-Key answers what was answered first.

    `route` is where keys are known, for a POST that is not the noun's own.
    """
    idempotency = idempotency_key(request, route=route or noun, fingerprint=canonical_digest(body.model_dump(mode="json")))
    return await _queue_job(record_of(request), state, noun=noun, kind=kind, job_id=job_id, spec=spec, idempotency=idempotency)


async def _queue_job(
    record: RequestRecord,
    state: JobsState,
    *,
    noun: str,
    kind: str,
    job_id: str,
    spec: dict[str, Any],
    idempotency: IdempotencyKey | None,
) -> JSONResponse:
    """Write the job and its event, once for each key, and answer its envelope."""
    witness = record.of_job(kind=kind, job_id=job_id, spec=spec)
    if idempotency is None:
        answer = envelope(
            await asyncio.to_thread(state.jobs.create, job_id=job_id, kind=kind, spec=spec, trace_id=current_trace_id(), witness=witness)
        )
    else:
        answer = await asyncio.to_thread(
            state.jobs.create_once,
            job_id=job_id,
            kind=kind,
            spec=spec,
            trace_id=current_trace_id(),
            idempotency=idempotency,
            response_of=envelope,
            witness=witness,
        )
    if answer["id"] == job_id:
        record.queued()
    else:  # the answer to a key that was used before
        record.found({kind: answer["id"]})
    state.runner.wake()
    headers = {"Location": f"/v1/{noun}/{answer['id']}", "Retry-After": str(_RETRY_AFTER_SECONDS)}
    return JSONResponse(answer, status_code=202, headers=headers)


def operation_routes(
    router: APIRouter,
    *,
    noun: str,
    kind: str,
    state_type: type[StateT],
    extend: Extend[StateT] | None = None,
    missing: Missing[StateT] | None = None,
    listed: bool = True,
) -> None:
    """Add GET /v1/{noun}, GET …/{id}, GET …/{id}/events, POST …/{id}/cancel and POST …/{id}/retry for the jobs of one kind.

    `extend` answers more fields of a job (a manifest's, once it succeeded); `missing` answers a resource that has no job
    record here, or raises NotFoundError. Both run on a thread.
    """
    _add_reading(router, noun=noun, kind=kind, state_type=state_type, extend=extend, missing=missing)
    _add_events(router, noun=noun, kind=kind, state_type=state_type)
    _add_cancelling(router, noun=noun, kind=kind, state_type=state_type)
    _add_retrying(router, noun=noun, kind=kind, state_type=state_type)
    if listed:
        _add_listing(router, noun=noun, kind=kind, state_type=state_type, extend=extend)


def _add_reading(
    router: APIRouter, *, noun: str, kind: str, state_type: type[StateT], extend: Extend[StateT] | None, missing: Missing[StateT] | None
) -> None:
    """GET of one."""

    @router.get(
        f"/v1/{noun}/{{id}}",
        name=f"get_{kind}",
        summary=f"Read one of the {noun}",
        dependencies=[requires("read")],
        response_model=Operation,
    )
    def get_operation(id: JobId, request: Request) -> JSONResponse:  # noqa: A002 - the path's own name
        """The operation as it is now."""
        state = read_state(request, state_type)
        try:
            answer = _extended(state, job_of_kind(state, id, noun=noun, kind=kind), extend)
        except NotFoundError:
            if missing is None:
                raise
            answer = missing(state, id)
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})


def _add_listing(router: APIRouter, *, noun: str, kind: str, state_type: type[StateT], extend: Extend[StateT] | None) -> None:
    """GET of many."""

    @router.get(
        f"/v1/{noun}",
        name=f"list_{kind}",
        summary=f"List the {noun}, newest first",
        dependencies=[requires("read")],
        response_model=Page[Operation],
    )
    def list_operations(query: Annotated[PageQuery, Query()], request: Request) -> JSONResponse:
        """One page of operations."""
        state = read_state(request, state_type)
        tokens = PageTokens.open(request.app.state.settings)
        before = tokens.read(scope=noun, token=query.page_token)
        jobs = state.jobs.list(kinds=[kind], page_size=query.page_size + 1, before=before)
        shown = jobs[: query.page_size]
        answer: dict[str, Any] = {"items": [_extended(state, job, extend) for job in shown]}
        if len(jobs) > len(shown):
            answer["next_page_token"] = tokens.sign(scope=noun, cursor=shown[-1].id)
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})


def _add_events(router: APIRouter, *, noun: str, kind: str, state_type: type[StateT]) -> None:
    """GET of the events."""

    @router.get(
        f"/v1/{noun}/{{id}}/events",
        name=f"stream_{kind}",
        summary="Follow the progress as server-sent events",
        dependencies=[requires("read")],
        response_class=StreamingResponse,
        responses={
            200: {"description": "Events", "content": {"text/event-stream": {"schema": _EVENT_SCHEMA}}},
            204: {"description": "Nothing follows the event that Last-Event-ID names"},
        },
        openapi_extra=_RESUMABLE,
    )
    async def stream_operation(id: JobId, request: Request) -> Response:  # noqa: A002 - the path's own name
        """Events after the one that Last-Event-ID names, until the operation ends."""
        state = read_state(request, state_type)
        last = read_last_event_id(request)
        job = await asyncio.to_thread(job_of_kind, state, id, noun=noun, kind=kind)
        if job.is_settled and last >= job.event_count:
            # The answer that tells an EventSource not to connect again.
            return Response(status_code=204)
        events = job_events(store=state.jobs, job_id=id, after=last, draining=draining_of(request.app), describe=envelope)
        return StreamingResponse(events, media_type="text/event-stream", headers=SSE_HEADERS)


def _add_cancelling(router: APIRouter, *, noun: str, kind: str, state_type: type[StateT]) -> None:
    """POST of the verb."""

    @router.post(
        f"/v1/{noun}/{{id}}/cancel",
        name=f"cancel_{kind}",
        summary="Cancel; again is harmless",
        dependencies=[requires("train", action="train")],
        response_model=Operation,
    )
    def cancel_operation(id: JobId, request: Request) -> JSONResponse:  # noqa: A002 - the path's own name
        """A queued operation ends at once, a running one at its next step, an ended one stays as it is."""
        state = read_state(request, state_type)
        job_of_kind(state, id, noun=noun, kind=kind)
        record_of(request).found({kind: id})
        record_of(request).begin()
        return JSONResponse(envelope(state.jobs.request_cancel(id)), headers={"Cache-Control": "no-store"})


def _add_retrying(router: APIRouter, *, noun: str, kind: str, state_type: type[StateT]) -> None:
    """POST of the other verb."""

    @router.post(
        f"/v1/{noun}/{{id}}/retry",
        status_code=202,
        name=f"retry_{kind}",
        summary="Ask for the same again, under a new id",
        dependencies=[requires("train", action="train")],
        response_model=Operation,
        openapi_extra=IDEMPOTENT,
    )
    async def retry_operation(id: JobId, request: Request) -> JSONResponse:  # noqa: A002 - the path's own name
        """Queue a new operation with the inputs of one that failed or was cancelled, which stays as it is."""
        state = read_state(request, state_type)
        job = await asyncio.to_thread(job_of_kind, state, id, noun=noun, kind=kind)
        if job.state not in {"failed", "cancelled"}:
            raise ConflictError(f"{id} is {job.state}; only what failed or was cancelled can be asked for again.")
        idempotency = idempotency_key(request, route=f"{noun}/{id}/retry", fingerprint=job.spec_digest)
        return await _queue_job(
            record_of(request), state, noun=noun, kind=kind, job_id=new_id_like(id), spec=job.spec, idempotency=idempotency
        )


def job_of_kind(state: JobsState, job_id: str, *, noun: str, kind: str) -> Job:
    """The job behind a resource; NotFoundError when there is none, or when it is of another kind."""
    absent = NotFoundError(f"There is no {job_id!r} among the {noun}.")
    try:
        job = state.jobs.get(job_id)
    except NotFoundError as error:
        raise absent from error
    if job.kind != kind:
        raise absent
    return job


def _extended(state: StateT, job: Job, extend: Extend[StateT] | None) -> dict[str, Any]:
    """The envelope with what the service adds; the envelope's own fields cannot be replaced."""
    return (extend(state, job) if extend is not None else {}) | envelope(job)
