"""What a job's handler works with: its spec, a place to report progress, and the question whether to go on."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, SupportsFloat

from shared.errors import JobCancelledError, LetheError, NotFoundError, UnavailableError
from shared.jobs.records import Job, JobState, JobStore
from shared.settings import Settings
from shared.telemetry import get_logger

# Five writes a second are lively enough for a progress bar and cost a training loop nothing, being made on a thread.
_EXCHANGE_SECONDS = 0.2

_LOG = get_logger(__name__)


class JobInterruptedError(LetheError):
    """The process was told to stop; the job itself goes on later."""


class JobTakenOverError(JobInterruptedError):
    """Another attempt holds the job now: nothing more may be written for it here."""


class JobLostError(LetheError):
    """Something that the attempt depended on died; the job is tried again, and the loss is counted."""


class JobSettledError(LetheError):
    """Another process of the same attempt has settled the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    """Progress as it was last reported."""

    step: int
    total: int
    message: str
    reported: dict[str, Any]


class JobContext:
    """One attempt at a job; `report` and `check_cancelled` touch memory only, a thread exchanges them with the record."""

    def __init__(self, *, job: Job, store: JobStore, settings: Settings) -> None:
        self.id = job.id
        self.kind = job.kind
        self.spec = job.spec
        self.attempt = job.attempt
        self.trace_id = job.trace_id
        self.settings = settings
        self._store = store
        self._lock = threading.Lock()
        self._reported: dict[str, Any] = {}
        self._pending: _Report | None = None
        self._cancelled = threading.Event()
        self._interrupted = threading.Event()
        self._taken_over = threading.Event()
        self._safe = threading.Event()
        self._finished = threading.Event()

    def report(self, step: int, total: int, message: str = "", **values: SupportsFloat | str) -> None:
        """Say how far the job is; values (loss=…, step_seconds=…) stay until they are reported anew."""
        told = {name: _plain(value) for name, value in values.items()}
        with self._lock:
            self._reported = {**self._reported, **told}
            self._pending = _Report(step=int(step), total=int(total), message=message, reported=self._reported)

    def check_cancelled(self) -> None:
        """Raise JobCancelledError once a caller cancelled the job, JobInterruptedError once this process is to stop."""
        if self._cancelled.is_set():
            raise JobCancelledError("The job was cancelled.")
        if self._taken_over.is_set():
            raise JobTakenOverError("Another attempt holds the job now.")
        if self._interrupted.is_set():
            raise JobInterruptedError("The job's process was told to stop; the job goes on later.")

    def advance(self, step: int, total: int, message: str = "", /, **values: SupportsFloat | str) -> None:
        """Report, unless this attempt is to stop."""
        self.check_cancelled()
        self.report(step, total, message, **values)

    def interrupt(self) -> None:
        """Make the next `check_cancelled` stop this attempt; the job stays queued for another one."""
        self._interrupted.set()

    @property
    def is_interrupted(self) -> bool:
        """Whether this process was told to stop."""
        return self._interrupted.is_set()

    def note_safe(self) -> None:
        """Say that what was done so far is safe (a checkpoint): the losses of processes before it count no more."""
        self._safe.set()

    def is_settled(self) -> bool:
        """Whether the record says that this attempt is over, asked now."""
        return self._read() is None

    def ended_siblings(self) -> dict[str, JobState]:
        """How the newest jobs of this kind ended that have no result: some had no process any more to clear up after them."""
        return {job.id: job.state for job in self._store.list(kinds=[self.kind]) if job.state in {"cancelled", "failed"}}

    @contextmanager
    def exchanging(self) -> Iterator[None]:
        """Write reports and read the cancel flag in the background; on leaving, write the last report."""
        thread = threading.Thread(target=self._exchange_until_finished, name=f"progress-{self.id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._finished.set()
            thread.join()
            self._exchange(always=False)

    def _exchange_until_finished(self) -> None:
        """The thread's loop."""
        while not self._finished.wait(_EXCHANGE_SECONDS):
            self._exchange(always=True)

    def _exchange(self, *, always: bool) -> None:
        """Write what is pending and look at the cancel flag; a database that is away is asked again next time."""
        with self._lock:
            pending, self._pending = self._pending, None
        safe = self._safe.is_set()
        if pending is None and not safe and not always:
            return
        try:
            if safe:
                self._store.forget_losses(job_id=self.id, attempt=self.attempt)
                self._safe.clear()
            job = self._write(pending) if pending is not None else self._read()
        except UnavailableError as error:
            _LOG.warning("job progress not written", exc_info=error)
            with self._lock:
                self._pending = self._pending or pending
            return
        except Exception:  # noqa: BLE001 - logged with its trace
            # The thread must go on reading the cancel flag; the next report may be a better one.
            _LOG.exception("job progress dropped")
            return
        if job is None:
            self._taken_over.set()
        elif job.cancel_requested:
            self._cancelled.set()

    def _write(self, report: _Report) -> Job | None:
        """Write a report; None when the job is no longer this attempt's."""
        return self._store.report(
            job_id=self.id,
            attempt=self.attempt,
            step=report.step,
            total=report.total,
            message=report.message,
            reported=report.reported,
        )

    def _read(self) -> Job | None:
        """The record; None when the job is no longer this attempt's."""
        try:
            job = self._store.get(self.id)
        except NotFoundError:
            return None
        return job if job.state == "running" and job.attempt == self.attempt else None


def _plain(value: SupportsFloat | str) -> float | str | None:
    """A value as JSON holds it: numbers of array libraries become Python's, and a diverged loss (NaN) becomes null."""
    if isinstance(value, str | int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
