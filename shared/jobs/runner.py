"""The service's side of jobs: claims queued ones, starts their processes, keeps their leases, and settles what died."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, get_args

from prometheus_client import Counter, Gauge, Histogram

from shared.errors import UnavailableError
from shared.jobs.executor import EXIT_INTERRUPTED, Capacity, Executor
from shared.jobs.leases import LEASE, new_owner
from shared.jobs.records import MAX_QUEUED, SETTLED, Job, JobState, JobStore
from shared.jobs.search_metrics import forget_search, observe_search
from shared.jobs.training_metrics import forget_training, observe_training
from shared.telemetry import bound_context, get_logger

# A new job starts at once through `wake`; this is how soon exits, cancellations and other processes' jobs are noticed.
POLL: Final = timedelta(seconds=0.25)
# A handler looks at its flag every step; one that does not within this time is told by signal.
CANCEL_GRACE: Final = timedelta(seconds=10)
# From SIGTERM to SIGKILL: time to write a checkpoint.
STOP_GRACE: Final = timedelta(seconds=8)
_METRICS_EVERY: Final = timedelta(seconds=2)
# After a failed round the database gets this long to recover.
_PAUSE_AFTER_FAILURE: Final = timedelta(seconds=1)

JOBS = Gauge("lethe_jobs", "Jobs by kind and state, from SQL.", ["kind", "state"])
OLDEST_QUEUED = Gauge("lethe_job_queue_oldest_age_seconds", "How long the oldest queued job waits.", ["kind"])
DURATION = Histogram(
    "lethe_job_duration_seconds",
    "From a job's start to its end.",
    ["kind", "outcome"],
    buckets=(1, 10, 60, 300, 900, 3600, 14400, 86400),
)
RECLAIMED = Counter("lethe_jobs_reclaimed_total", "Jobs taken again after their process or lease was lost.", ["kind"])
SLOTS = Gauge("lethe_executor_slots", "Slots of the executor.", ["executor", "state"])

_LOG = get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class _Running:
    """A job whose process this runner watches."""

    job: Job
    slot: int
    cancel_seen: datetime | None = field(default=None)
    exit_code: int | None = field(default=None)


class JobRunner:
    """Runs the queued jobs of some kinds, as many at a time as the executor has slots."""

    def __init__(self, *, store: JobStore, executor: Executor, kinds: Collection[str], lease: timedelta = LEASE) -> None:
        self._store = store
        self._executor = executor
        self._kinds = tuple(kinds)
        self._lease = lease
        self._owner = new_owner()
        self._running: dict[str, _Running] = {}
        self._wake = asyncio.Event()
        self._capacity: Capacity | None = Capacity(slots=0, busy=0)
        self._failing = False
        self._stopping = False
        self._queued = 0
        self._due: dict[str, datetime] = {}
        _begin_counting(self._kinds)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[JobRunner]:
        """Run jobs while the block lasts; on leaving, processes are stopped and their jobs go back into the queue."""
        task = asyncio.create_task(self._serve(), name="job-runner")
        try:
            yield self
        finally:
            # Not cancelled: a claim that is under way in its thread must find its job started or put back.
            self._stopping = True
            self._wake.set()
            await task
            await asyncio.to_thread(self._stop)

    def wake(self) -> None:
        """Look for a queued job now instead of at the next round."""
        self._wake.set()

    def not_ready(self) -> list[str]:
        """Why this service should get no more work: empty when all is well."""
        reasons = []
        if self._failing:
            reasons.append("the database does not answer")
        if self._capacity is None:
            reasons.append("what runs the jobs does not answer")
        if self._queued >= MAX_QUEUED:
            reasons.append("the job queue is full")
        return reasons

    async def _serve(self) -> None:
        """Round after round, until told to stop."""
        while not self._stopping:
            pause = POLL
            try:
                await self._round()
                self._failing = False
            except Exception:  # noqa: BLE001 - logged with its trace, and shown by /readyz
                # A round that fails (the database away, a full disk) must not end all jobs: the next one may work.
                _LOG.exception("job round failed")
                self._failing = True
                self._let_leases_be_renewed()
                pause = _PAUSE_AFTER_FAILURE
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause.total_seconds())
            if not self._stopping:
                self._wake.clear()

    async def _round(self) -> None:
        """One look at everything: exits, leases and flags, lost jobs, new jobs, metrics."""
        for job_id, running in list(self._running.items()):
            if running.exit_code is None:
                running.exit_code = self._executor.poll(job_id)
            if running.exit_code is not None:
                await asyncio.to_thread(self._settle_exit, running, running.exit_code)
                del self._running[job_id]
        if self._running and self._is_due("heartbeat", POLL):
            await self._keep_leases()
        if self._is_due("sweep", self._lease / 3):
            await asyncio.to_thread(self._take_back_lost)
        await self._start_queued()
        if self._is_due("metrics", _METRICS_EVERY):
            await asyncio.to_thread(self._publish_counts)

    def _let_leases_be_renewed(self) -> None:
        """After the database was away, possibly for all: renew what is held here at once, and leave the others time to do so."""
        now = datetime.now(tz=UTC)
        self._due |= {"lease": now, "sweep": now + self._lease}

    async def _keep_leases(self) -> None:
        """Renew the leases, pass cancellations on, and end processes whose job another runner holds."""
        held = {job.id: job for job in await asyncio.to_thread(self._held_jobs)}
        for job_id, running in self._running.items():
            job = held.get(job_id)
            if job is None:
                # Settled by its own process, which is about to exit, or taken over: either way it has nothing left to do.
                self._executor.cancel(job_id, grace=STOP_GRACE)
                continue
            if job.step != running.job.step:
                observe_training(running.slot, running.job.reported, job.reported)
            observe_search(running.slot, job.reported)
            running.job = job
            if job.cancel_requested:
                self._press_cancel(running)

    def _held_jobs(self) -> list[Job]:
        """The records of running jobs, with leases renewed when a third of them is over."""
        job_ids = list(self._running)
        if self._is_due("lease", self._lease / 3):
            return list(self._store.heartbeat(owner=self._owner, job_ids=job_ids, lease=self._lease))
        jobs = [self._store.get(job_id) for job_id in job_ids]
        return [job for job in jobs if job.state == "running" and job.lease_owner == self._owner]

    def _press_cancel(self, running: _Running) -> None:
        """Give the handler time to see its flag, then signal its process."""
        now = datetime.now(tz=UTC)
        running.cancel_seen = running.cancel_seen or now
        if now - running.cancel_seen >= CANCEL_GRACE:
            self._executor.cancel(running.job.id, grace=STOP_GRACE)

    def _settle_exit(self, running: _Running, code: int) -> None:
        """After a process ended: account for what it settled, or put its job back."""
        forget_training(running.slot)
        forget_search(running.slot)
        job = self._store.get(running.job.id)
        with bound_context(**job.log_values):
            if job.state == "running" and job.attempt == running.job.attempt:
                lost = code != EXIT_INTERRUPTED
                job = self._store.release(job_id=job.id, attempt=job.attempt, lost=lost) or job
                if lost:
                    RECLAIMED.labels(kind=job.kind).inc()
                    _LOG.warning("job process ended without a result", exit_code=code, losses=job.losses, state=job.state)
            if job.is_settled:
                _observe_duration(job)
                _LOG.info("job settled", kind=job.kind, state=job.state)

    def _take_back_lost(self) -> None:
        """Requeue the jobs of services that died."""
        for job in self._store.requeue_lost(kinds=self._kinds):
            RECLAIMED.labels(kind=job.kind).inc()
            _LOG.warning("job taken back from a lost service", job_id=job.id, losses=job.losses, state=job.state)

    async def _start_queued(self) -> None:
        """Claim jobs while slots are free; processes start on the loop's own thread, which lives as long as the service."""
        while not self._stopping and self._has_free_slot():
            job = await asyncio.to_thread(self._claim)
            if job is None:
                return
            try:
                slot = self._executor.submit(job.id)
            except Exception:
                # Nothing runs it and nothing renews its lease; that is not the job's fault.
                await asyncio.to_thread(self._store.release, job_id=job.id, attempt=job.attempt, lost=False)
                raise
            self._running[job.id] = _Running(job=job, slot=slot)
            _LOG.info("job started", job_id=job.id, trace_id=job.trace_id, kind=job.kind, attempt=job.attempt)

    def _has_free_slot(self) -> bool:
        """Whether the executor takes another job; one that is away takes none and is asked again in the next round."""
        try:
            self._capacity = self._executor.capacity()
        except UnavailableError as error:
            if self._capacity is not None:
                _LOG.warning("executor away", executor=self._executor.name, exc_info=error)
            self._capacity = None
            return False
        return self._capacity.free > 0

    def _claim(self) -> Job | None:
        """Take the oldest queued job."""
        return self._store.claim(kinds=self._kinds, owner=self._owner, lease=self._lease)

    def _publish_counts(self) -> None:
        """Set the gauges from SQL and from the executor."""
        counts = self._store.counts(self._kinds)
        now = datetime.now(tz=UTC)
        for kind in self._kinds:
            for state in get_args(JobState):
                JOBS.labels(kind=kind, state=state).set(counts.by_kind_and_state.get((kind, state), 0))
            oldest = counts.oldest_queued.get(kind, now)
            OLDEST_QUEUED.labels(kind=kind).set((now - oldest).total_seconds())
        self._queued = max((counts.by_kind_and_state.get((kind, "queued"), 0) for kind in self._kinds), default=0)
        capacity = self._capacity or Capacity(slots=0, busy=0)
        SLOTS.labels(executor=self._executor.name, state="free").set(capacity.free)
        SLOTS.labels(executor=self._executor.name, state="busy").set(capacity.busy)

    def _stop(self) -> None:
        """End all processes and put their jobs back."""
        codes = self._executor.close(grace=STOP_GRACE)
        for job_id, running in self._running.items():
            # The service ended them, so a code other than success is not the job's fault.
            code = EXIT_INTERRUPTED if codes.get(job_id, 0) != 0 else 0
            try:
                self._settle_exit(running, code)
            except UnavailableError as error:
                # The next start finds the record's owner gone and takes the job back.
                _LOG.warning("job not put back", job_id=job_id, exc_info=error)
        self._running.clear()

    def _is_due(self, what: str, every: timedelta) -> bool:
        """Whether something that happens now and then is to happen in this round; a clock that was set back puts nothing off."""
        now = datetime.now(tz=UTC)
        if now < self._due.get(what, now) <= now + max(every, self._lease):
            return False
        self._due[what] = now + every
        return True


def _begin_counting(kinds: Collection[str]) -> None:
    """Show all counts from zero: an increase from nothing to one is none to Prometheus, and alerts would miss the first."""
    for kind in kinds:
        RECLAIMED.labels(kind=kind)
        for outcome in SETTLED:
            DURATION.labels(kind=kind, outcome=outcome)


def _observe_duration(job: Job) -> None:
    """Account for the time of a settled job."""
    if job.started is not None and job.ended is not None:
        DURATION.labels(kind=job.kind, outcome=job.state).observe((job.ended - job.started).total_seconds())
