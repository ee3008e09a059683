"""Job records: created, claimed, reported on, settled and listed through SQL, with every change as an event."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Self

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError as SqlIntegrityError

from shared.database import Database, prepare_embedded, prepare_schema
from shared.errors import AlreadyExistsError, NotFoundError, SaturatedError
from shared.jobs.failures import lost_too_often
from shared.jobs.idempotency import KEPT_FOR, IdempotencyKey, IdempotencyKeyReusedError, canonical_digest
from shared.jobs.leases import LEASE, owner_is_gone
from shared.jobs.tables import EVENTS, IDEMPOTENCY, JOB_SCHEMA, JOBS
from shared.settings import Settings

# Told of a new job inside its transaction, as its last statement; what it raises undoes the job.
JobWitness = Callable[[Connection, "Job"], None]
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
EventName = Literal["state", "progress", "end"]
SETTLED: Final[tuple[JobState, ...]] = ("succeeded", "failed", "cancelled")

# Rejecting early keeps the wait of those already queued bearable.
MAX_QUEUED = 1000
# A job that lost its process this often, without progress that was kept in between, is not tried again.
MAX_LOSSES = 3
# Enough to resume a stream after a coffee break; older progress has no reader.
EVENTS_KEPT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job record as it was read."""

    id: str
    kind: str
    state: JobState
    version: int
    spec: dict[str, Any]
    spec_digest: str
    attempt: int
    losses: int
    lease_owner: str | None
    lease_expires: datetime | None
    heartbeat: datetime | None
    cancel_requested: bool
    step: int
    total: int
    message: str
    reported: dict[str, Any]
    result: dict[str, Any] | None
    problem: dict[str, Any] | None
    trace_id: str | None
    event_count: int
    created: datetime
    updated: datetime
    started: datetime | None
    ended: datetime | None

    @property
    def is_settled(self) -> bool:
        """Whether the job ended, one way or another."""
        return self.state in SETTLED

    @property
    def log_values(self) -> dict[str, str]:
        """What lines about the job say; the trace is the caller's, and there is none of a job that a process made by itself."""
        return {"job_id": self.id} | ({"trace_id": self.trace_id} if self.trace_id is not None else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One change of a job, numbered from 1 upwards."""

    sequence: int
    name: EventName
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCounts:
    """How many jobs of each kind are in each state, and since when the oldest of each kind waits."""

    by_kind_and_state: dict[tuple[str, JobState], int]
    oldest_queued: dict[str, datetime]


class JobStore:
    """All job records behind one database; safe to share between threads."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """The store that the settings name; on SQLite its tables are brought to the newest version."""
        store = cls(settings.sql_url)
        prepare_embedded(store._database.engine, JOB_SCHEMA)
        return store

    def prepare(self) -> None:
        """Make the tables, or bring them to the newest version."""
        prepare_schema(self._database.engine, JOB_SCHEMA)

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def ping(self) -> None:
        """Ask the database something small; UnavailableError when it does not answer."""
        with self._database.reading() as connection:
            connection.execute(select(func.count()).select_from(JOBS).where(JOBS.c.id == ""))

    # ── creating and reading ──

    def create(
        self, *, job_id: str, kind: str, spec: dict[str, Any], trace_id: str | None = None, witness: JobWitness | None = None
    ) -> Job:
        """Queue a job; SaturatedError when the queue of its kind is full."""
        with self._database.writing() as connection:
            job = _insert_job(connection, job_id=job_id, kind=kind, spec=spec, trace_id=trace_id)
            if witness is not None:
                witness(connection, job)
            return job

    def create_once(
        self,
        *,
        job_id: str,
        kind: str,
        spec: dict[str, Any],
        trace_id: str | None,
        idempotency: IdempotencyKey,
        response_of: Callable[[Job], dict[str, Any]],
        witness: JobWitness | None = None,
    ) -> dict[str, Any]:
        """Queue a job unless its key was used; answers the stored response, or IdempotencyKeyReusedError for another body."""
        stored = self._stored_response(idempotency)
        if stored is not None:
            return stored
        try:
            with self._database.writing() as connection:
                job = _insert_job(connection, job_id=job_id, kind=kind, spec=spec, trace_id=trace_id)
                response = response_of(job)
                _remember(connection, idempotency, job=job, response=response)
                if witness is not None:
                    witness(connection, job)
                return response
        except AlreadyExistsError:
            # Another request with the same key was faster by a moment.
            stored = self._stored_response(idempotency)
            if stored is None:
                raise
            return stored

    def get(self, job_id: str) -> Job:
        """One job; NotFoundError when there is none."""
        if "\0" not in job_id:  # which PostgreSQL refuses to look for
            with self._database.reading() as connection:
                row = connection.execute(select(JOBS).where(JOBS.c.id == job_id)).one_or_none()
            if row is not None:
                return _job_of(row)
        raise NotFoundError(f"There is no job {job_id[:64]!r}.")

    def list(self, *, kinds: Collection[str], page_size: int = 50, before: str | None = None) -> Sequence[Job]:
        """Up to `page_size` jobs of these kinds, newest first, after the one named by `before`."""
        wanted = select(JOBS).where(JOBS.c.kind.in_(kinds)).order_by(JOBS.c.created.desc(), JOBS.c.id.desc()).limit(page_size)
        with self._database.reading() as connection:
            if before is not None:
                created = connection.scalar(select(JOBS.c.created).where(JOBS.c.id == before))
                if created is None:
                    raise NotFoundError(f"There is no job {before[:64]!r} to continue the list after.")
                wanted = wanted.where(or_(JOBS.c.created < created, and_(JOBS.c.created == created, JOBS.c.id < before)))
            return [_job_of(row) for row in connection.execute(wanted)]

    def unsettled(self, *, kinds: Collection[str]) -> Sequence[Job]:
        """All jobs of these kinds that wait or run."""
        wanted = select(JOBS).where(JOBS.c.kind.in_(kinds), JOBS.c.state.in_(["queued", "running"])).order_by(JOBS.c.created, JOBS.c.id)
        with self._database.reading() as connection:
            return [_job_of(row) for row in connection.execute(wanted)]

    def beginning_with(self, prefix: str, *, kind: str) -> Sequence[Job]:
        """All jobs of a kind whose ids begin so, in the order of their ids: the parts of another job."""
        wanted = select(JOBS).where(JOBS.c.kind == kind, JOBS.c.id.startswith(prefix, autoescape=True)).order_by(JOBS.c.id)
        with self._database.reading() as connection:
            return [_job_of(row) for row in connection.execute(wanted)]

    def events_since(self, job_id: str, sequence: int = 0) -> Sequence[JobEvent]:
        """The kept events of a job after number `sequence`, oldest first."""
        wanted = select(EVENTS).where(EVENTS.c.job_id == job_id, EVENTS.c.sequence > sequence).order_by(EVENTS.c.sequence)
        with self._database.reading() as connection:
            return [JobEvent(sequence=row.sequence, name=row.name, data=row.data) for row in connection.execute(wanted)]

    def counts(self, kinds: Collection[str]) -> JobCounts:
        """How many jobs of these kinds there are, for metrics and readiness."""
        counted = select(JOBS.c.kind, JOBS.c.state, func.count().label("n"), func.min(JOBS.c.created).label("oldest"))
        with self._database.reading() as connection:
            rows = connection.execute(counted.where(JOBS.c.kind.in_(kinds)).group_by(JOBS.c.kind, JOBS.c.state)).all()
        return JobCounts(
            by_kind_and_state={(row.kind, row.state): row.n for row in rows},
            oldest_queued={row.kind: row.oldest for row in rows if row.state == "queued"},
        )

    # ── the service that runs jobs ──

    def claim(self, *, kinds: Collection[str], owner: str, lease: timedelta = LEASE) -> Job | None:
        """Take the oldest queued job of these kinds; None when there is none. Of several claimers exactly one gets it."""
        oldest = select(JOBS.c.id, JOBS.c.version).where(JOBS.c.kind.in_(kinds), JOBS.c.state == "queued")
        oldest = oldest.order_by(JOBS.c.created, JOBS.c.id).limit(1)
        while True:
            with self._database.reading() as connection:
                candidate = connection.execute(oldest).one_or_none()
            if candidate is None:
                return None
            job = self._take(candidate.id, JOBS.c.version == candidate.version, owner=owner, lease=lease)
            if job is not None:
                return job

    def claim_this(self, job_id: str, *, owner: str, lease: timedelta = LEASE) -> Job | None:
        """Take one queued job; None when it is not queued any more."""
        return self._take(job_id, owner=owner, lease=lease)

    def heartbeat(self, *, owner: str, job_ids: Collection[str], lease: timedelta = LEASE) -> Sequence[Job]:
        """Renew the leases of running jobs; answers those that the owner still holds."""
        now = _now()
        renew = update(JOBS).where(JOBS.c.id.in_(job_ids), JOBS.c.state == "running", JOBS.c.lease_owner == owner)
        with self._database.writing() as connection:
            rows = connection.execute(renew.values(lease_expires=now + lease, heartbeat=now).returning(JOBS)).all()
        return [_job_of(row) for row in rows]

    def requeue_lost(self, *, kinds: Collection[str]) -> Sequence[Job]:
        """Take back running jobs whose lease ran out or whose service process is gone; answers them as they are now."""
        now = _now()
        with self._database.reading() as connection:
            running = [_job_of(row) for row in connection.execute(select(JOBS).where(JOBS.c.kind.in_(kinds), JOBS.c.state == "running"))]
        lost = [job for job in running if job.lease_expires is None or job.lease_expires < now or owner_is_gone(job.lease_owner or "")]
        taken = (self.release(job_id=job.id, attempt=job.attempt, lost=True, lease_expires=job.lease_expires) for job in lost)
        return [job for job in taken if job is not None]

    def release(self, *, job_id: str, attempt: int, lost: bool, lease_expires: datetime | None = None) -> Job | None:
        """Put a running job back into the queue; one that was asked to stop is cancelled, one that is lost too often fails.

        Answers None when the job moved on meanwhile. With `lease_expires`, only if the lease was not renewed since it was read.
        """
        with self._database.writing() as connection:
            # The row stays locked until the end: a heartbeat or a cancellation in between would be overwritten.
            row = connection.execute(select(JOBS).where(JOBS.c.id == job_id, *_held(attempt)).with_for_update()).one_or_none()
            if row is None or (lease_expires is not None and row.lease_expires != lease_expires):
                return None
            losses = row.losses + int(lost)
            if row.cancel_requested:
                return _settle(connection, job_id, attempt, state="cancelled", losses=losses)
            if losses >= MAX_LOSSES:
                problem = lost_too_often(losses=losses, trace_id=row.trace_id)
                return _settle(connection, job_id, attempt, state="failed", losses=losses, problem=problem)
            return _change(
                connection,
                job_id,
                *_held(attempt),
                event="state",
                state="queued",
                losses=losses,
                lease_owner=None,
                lease_expires=None,
            )

    # ── the process that does the work ──

    def report(self, *, job_id: str, attempt: int, step: int, total: int, message: str, reported: dict[str, Any]) -> Job | None:
        """Write progress; None when this attempt no longer holds the job."""
        with self._database.writing() as connection:
            return _change(
                connection,
                job_id,
                *_held(attempt),
                event="progress",
                step=step,
                total=total,
                message=message,
                reported=reported,
            )

    def forget_losses(self, *, job_id: str, attempt: int) -> None:
        """Begin the retry budget anew: this attempt has made progress that the next one goes on from."""
        with self._database.writing() as connection:
            connection.execute(update(JOBS).where(JOBS.c.id == job_id, *_held(attempt)).values(losses=0))

    def succeed(self, *, job_id: str, attempt: int, result: dict[str, Any]) -> bool:
        """Settle a job with its result; False when this attempt no longer holds it."""
        with self._database.writing() as connection:
            return _settle(connection, job_id, attempt, state="succeeded", result=result) is not None

    def fail(self, *, job_id: str, attempt: int, problem: dict[str, Any]) -> bool:
        """Settle a job with the problem that ended it; False when this attempt no longer holds it."""
        with self._database.writing() as connection:
            return _settle(connection, job_id, attempt, state="failed", problem=problem) is not None

    def cancelled(self, *, job_id: str, attempt: int) -> bool:
        """Settle a running job as cancelled; False when this attempt no longer holds it."""
        with self._database.writing() as connection:
            return _settle(connection, job_id, attempt, state="cancelled") is not None

    def forget_settled(self, *, kind: str, prefixes: Collection[str]) -> None:
        """Delete the records, with their events, of settled jobs of a kind whose ids begin so: parts of jobs that are over."""
        if not prefixes:
            return
        of_these = or_(*(JOBS.c.id.startswith(prefix, autoescape=True) for prefix in prefixes))
        with self._database.writing() as connection:
            connection.execute(delete(JOBS).where(JOBS.c.kind == kind, of_these, JOBS.c.state.in_(SETTLED)))

    # ── the caller ──

    def request_cancel(self, job_id: str) -> Job:
        """Cancel a queued job at once, ask a running one to stop, leave a settled one as it is."""
        with self._database.writing() as connection:
            job = _change(connection, job_id, JOBS.c.state == "queued", event="end", state="cancelled", cancel_requested=True, ended=_now())
            if job is None:
                job = _change(
                    connection,
                    job_id,
                    JOBS.c.state == "running",
                    JOBS.c.cancel_requested.is_(False),
                    event="state",
                    cancel_requested=True,
                )
        return job or self.get(job_id)

    # ── inside ──

    def _take(self, job_id: str, *conditions: ColumnElement[bool], owner: str, lease: timedelta) -> Job | None:
        """Make a queued job a running one of this owner's."""
        now = _now()
        with self._database.writing() as connection:
            return _change(
                connection,
                job_id,
                JOBS.c.state == "queued",
                *conditions,
                event="state",
                state="running",
                attempt=JOBS.c.attempt + 1,
                lease_owner=owner,
                lease_expires=now + lease,
                heartbeat=now,
                started=now,
            )

    def _stored_response(self, idempotency: IdempotencyKey) -> dict[str, Any] | None:
        """The response stored under a key that is still kept; IdempotencyKeyReusedError when it belongs to another body."""
        wanted = select(IDEMPOTENCY).where(
            IDEMPOTENCY.c.scope == idempotency.scope,
            IDEMPOTENCY.c.key == idempotency.key,
            IDEMPOTENCY.c.created > _now() - KEPT_FOR,
        )
        with self._database.reading() as connection:
            row = connection.execute(wanted).one_or_none()
        if row is None:
            return None
        if row.fingerprint != idempotency.fingerprint:
            raise IdempotencyKeyReusedError("This Idempotency-Key was used before with another body; send a new key.")
        response: dict[str, Any] = row.response
        return response


def _insert_job(connection: Connection, *, job_id: str, kind: str, spec: dict[str, Any], trace_id: str | None) -> Job:
    """Write a new record and its first event."""
    queued = connection.scalar(select(func.count()).select_from(JOBS).where(JOBS.c.kind == kind, JOBS.c.state == "queued"))
    if (queued or 0) >= MAX_QUEUED:
        raise SaturatedError(f"{MAX_QUEUED} jobs of kind {kind} are waiting; try again later.")
    now = _now()
    record = {
        "id": job_id,
        "kind": kind,
        "state": "queued",
        "version": 1,
        "spec": spec,
        "spec_digest": canonical_digest(spec),
        "attempt": 0,
        "losses": 0,
        "cancel_requested": False,
        "step": 0,
        "total": 0,
        "message": "",
        "reported": {},
        "trace_id": trace_id,
        "event_count": 1,
        "created": now,
        "updated": now,
    }
    try:
        row = connection.execute(insert(JOBS).values(record).returning(JOBS)).one()
    except SqlIntegrityError as error:
        raise AlreadyExistsError(f"There is a job {job_id} already.") from error
    job = _job_of(row)
    _append_event(connection, job, "state")
    return job


def _remember(connection: Connection, idempotency: IdempotencyKey, *, job: Job, response: dict[str, Any]) -> None:
    """Store a key and its response beside the job, and forget keys that are past their time."""
    connection.execute(delete(IDEMPOTENCY).where(IDEMPOTENCY.c.created <= job.created - KEPT_FOR))
    entry = {
        "scope": idempotency.scope,
        "key": idempotency.key,
        "fingerprint": idempotency.fingerprint,
        "job_id": job.id,
        "response": response,
        "created": job.created,
    }
    try:
        connection.execute(insert(IDEMPOTENCY).values(entry))
    except SqlIntegrityError as error:
        raise AlreadyExistsError("This Idempotency-Key was used a moment ago.") from error


def _change(connection: Connection, job_id: str, *conditions: ColumnElement[bool], event: EventName, **values: Any) -> Job | None:
    """Compare and set: change the record if the conditions hold, number the change, keep it as an event."""
    changed = update(JOBS).where(JOBS.c.id == job_id, *conditions)
    changed = changed.values(version=JOBS.c.version + 1, event_count=JOBS.c.event_count + 1, updated=_now(), **values)
    row = connection.execute(changed.returning(JOBS)).one_or_none()
    if row is None:
        return None
    job = _job_of(row)
    _append_event(connection, job, event)
    return job


def _settle(connection: Connection, job_id: str, attempt: int, **values: Any) -> Job | None:
    """End a job that this attempt holds."""
    return _change(connection, job_id, *_held(attempt), event="end", lease_owner=None, lease_expires=None, ended=_now(), **values)


def _held(attempt: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """The conditions under which an attempt may write: nobody took the job over."""
    return JOBS.c.state == "running", JOBS.c.attempt == attempt


def _append_event(connection: Connection, job: Job, name: EventName) -> None:
    """Keep the job's present state as an event, and let the oldest ones go."""
    data = {
        "state": job.state,
        "attempt": job.attempt,
        "progress": {"step": job.step, "total": job.total, "message": job.message, "values": job.reported},
    }
    connection.execute(insert(EVENTS).values(job_id=job.id, sequence=job.event_count, name=name, data=data))
    connection.execute(delete(EVENTS).where(EVENTS.c.job_id == job.id, EVENTS.c.sequence <= job.event_count - EVENTS_KEPT))


def _job_of(row: Row[Any]) -> Job:
    """The record of a row."""
    return Job(**row._mapping)  # noqa: SLF001 - the documented name, kept apart from column names by its underscore


def _now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(tz=UTC)
