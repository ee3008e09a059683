"""The parts of a job that are jobs of their own: made, claimed, run and looked after by the process of the whole.

A part's job has the same id at every attempt at the whole, and no runner takes it. Killed anywhere, the next attempt finds the
parts that are settled, and takes back those that are not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final

from shared.errors import AlreadyExistsError, JobCancelledError, NotFoundError, UnavailableError
from shared.jobs.context import JobContext
from shared.jobs.executor import EXIT_INTERRUPTED, Executor
from shared.jobs.leases import LEASE, new_owner
from shared.jobs.opening import open_executor
from shared.jobs.records import Job, JobStore
from shared.jobs.runner import STOP_GRACE
from shared.jobs.worker import patiently
from shared.settings import Settings
from shared.telemetry import get_logger

TELL_EVERY: Final = timedelta(seconds=0.5)  # how often the parts' records are read for the progress of the whole
CANCEL_GRACE: Final = timedelta(seconds=4)  # what parts get to see that they are cancelled, before they are told by signal
_LOOK_SECONDS: Final = 0.05

_LOG = get_logger(__name__)


class Parts:
    """The parts that one attempt at a job holds."""

    def __init__(
        self, context: JobContext, records: JobStore, executor: Executor, *, kind: str, at_once: int, tell: Callable[[Sequence[Job]], None]
    ) -> None:
        """Parts of one kind, so many at a time; `tell` sees the records of those that run, now and then."""
        self._context = context
        self._records = records
        self._executor = executor
        self._kind = kind
        self._at_once = at_once
        self._tell = tell
        self._owner = new_owner()
        self._held: dict[str, int] = {}  # the attempt at each part that is claimed and not over
        self._due: dict[str, float] = {}
        self._safe: dict[str, Any] = {}

    def claim(self, job_id: str, spec: Mapping[str, Any]) -> Job:
        """A part's record, made with this spec if there is none: settled, or claimed, if need be from an attempt that is no more."""
        while True:  # until it is claimed or over: an attempt that is not quite gone may move it on in between
            job = patiently(lambda: self._record(job_id, spec))
            if job.is_settled:
                return job
            if job.state == "running":
                patiently(partial(self._records.release, job_id=job_id, attempt=job.attempt, lost=False))
            elif (claimed := patiently(lambda: self._records.claim_this(job_id, owner=self._owner))) is not None:
                self._held[job_id] = claimed.attempt
                return claimed

    def run(self, job_ids: Iterable[str]) -> Generator[Job, None, None]:
        """Run claimed parts, each asked for when there is a place for it; yields the record of each whose process ended.

        It is settled, or waits again because its process died: to be claimed and run once more. A loss is counted as runners count it.
        Closing the generator ends those that run.
        """
        with closing(self._executor.map(job_ids, at_once=self._at_once, between=self._look_after)) as ended:
            for job_id, code in ended:
                yield self._settle_exit(job_id, code)

    def _record(self, job_id: str, spec: Mapping[str, Any]) -> Job:
        """A part's record, made when it is missing."""
        try:
            return self._records.get(job_id)
        except NotFoundError:
            pass
        try:
            return self._records.create(job_id=job_id, kind=self._kind, spec=dict(spec), trace_id=self._context.trace_id)
        except AlreadyExistsError:  # an attempt that is not quite gone was faster by a moment
            return self._records.get(job_id)

    def _settle_exit(self, job_id: str, code: int) -> Job:
        """After a process ended: nothing is left to do, or the job is put back."""
        job = patiently(lambda: self._records.get(job_id))
        if job.state == "running":
            lost = code != EXIT_INTERRUPTED
            patiently(lambda: self._records.release(job_id=job_id, attempt=job.attempt, lost=lost))
            job = patiently(lambda: self._records.get(job_id))  # an attempt that is not quite gone may have settled it
            _LOG.warning("part ended without a result", job=job_id, exit_code=code, losses=job.losses, state=job.state)
        self._held.pop(job_id, None)
        return job

    def _look_after(self, running: Collection[str]) -> None:
        """Pass a cancellation on; renew leases and tell how far the parts are, now and then."""
        try:
            self._context.check_cancelled()
        except JobCancelledError:
            self._cancel(running)
            raise
        try:
            if self._is_due("leases", LEASE / 3):
                self._records.heartbeat(owner=self._owner, job_ids=list(self._held))
            if running and self._is_due("progress", TELL_EVERY):
                jobs = [self._records.get(job_id) for job_id in sorted(running)]
                self._note_safe(jobs)
                self._tell(jobs)
        except UnavailableError as error:
            _LOG.warning("job database away", exc_info=error)

    def _note_safe(self, running: Sequence[Job]) -> None:
        """A checkpoint of a part is the gain of the whole too."""
        safe = {job.id: job.reported["checkpoint_step"] for job in running if "checkpoint_step" in job.reported}
        if safe.items() - self._safe.items():
            self._context.note_safe()
        self._safe |= safe

    def _cancel(self, running: Collection[str]) -> None:
        """Have the parts stop by themselves, within a step, so that they keep nothing more; those without a process are over at once."""
        deadline = time.monotonic() + CANCEL_GRACE.total_seconds()
        try:
            for job_id, attempt in self._held.items():
                self._records.request_cancel(job_id)
                if job_id not in running:
                    self._records.cancelled(job_id=job_id, attempt=attempt)
            while time.monotonic() < deadline and not all(self._records.get(job_id).is_settled for job_id in running):
                time.sleep(_LOOK_SECONDS)
        except UnavailableError as error:
            _LOG.warning("parts not told that they are cancelled", exc_info=error)

    def _is_due(self, what: str, every: timedelta) -> bool:
        now = time.monotonic()
        if now < self._due.get(what, now):
            return False
        self._due[what] = now + every.total_seconds()
        return True


@contextmanager
def opened_executor(settings: Settings, parallel: int, *, worker_module: str) -> Iterator[Executor]:
    """Where a job's parts run: one after another in the job's own place, several at once where its service runs jobs."""
    told: dict[str, Any] = {"job_slots": parallel} | ({"ray_address": ""} if parallel == 1 else {})
    executor = open_executor(settings.model_copy(update=told), worker_module=worker_module)
    try:
        yield executor
    finally:
        executor.close(grace=STOP_GRACE)


def settle_parts(records: JobStore, *, kind: str, whole: str, ended: Collection[str]) -> None:
    """Settle what waits or runs of the parts of jobs that ended. `whole` is where a part's spec names its job."""
    for job in records.unsettled(kinds=[kind]):
        if job.spec[whole] in ended and records.request_cancel(job.id).state == "running":
            records.cancelled(job_id=job.id, attempt=job.attempt)
