"""Where jobs run: the protocol that runners speak, and what executors and workers agree on."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from shared.errors import UnavailableError

# A worker that was told to stop (SIGTERM) ends with this code: the job is to be run again (EX_TEMPFAIL of sysexits.h).
EXIT_INTERRUPTED = 75
# The worker compares it with its parent's id: when they differ, the parent died before the child could ask to die with it.
PARENT_VARIABLE = "LETHE_PARENT_PID"
# How often `map` looks for jobs that ended.
_MAP_POLL_SECONDS = 0.05
# What jobs get to end in when nobody waits for the rest of a `map` any more.
_MAP_GRACE = timedelta(seconds=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How many jobs an executor can run at once, and how many it runs."""

    slots: int
    busy: int

    @property
    def free(self) -> int:
        """How many more jobs may be submitted."""
        return self.slots - self.busy


class Executor(Protocol):
    """Runs jobs by id; the worker reads everything else from the record.

    Calls answer at once. An executor that lives elsewhere and does not answer says so by UnavailableError.
    """

    @property
    def name(self) -> str:
        """A word for metrics."""

    def submit(self, job_id: str) -> int:
        """Start a job, answer the number of its slot; SaturatedError without a free one."""

    def poll(self, job_id: str) -> int | None:
        """The exit code of a job that ended, which frees its slot; None while it runs."""

    def cancel(self, job_id: str, *, grace: timedelta) -> None:
        """Ask a job's process to end, and end it after the grace."""

    def capacity(self) -> Capacity:
        """Slots in all and in use."""

    def close(self, *, grace: timedelta) -> dict[str, int]:
        """End all jobs, waiting up to the grace; answers their exit codes."""

    def map(
        self, job_ids: Iterable[str], *, at_once: int | None = None, between: Callable[[Collection[str]], None] = lambda _running: None
    ) -> Generator[tuple[str, int], None, None]:
        """Run claimed jobs, as many at a time as there are free slots, or `at_once`; yields id and exit code of each as it ends.

        An id is asked for when there is a place for it, so it may depend on how others ended. `between` is told of the running ones
        at each look, and may raise to stop. A caller that stops listening ends those that run.
        """
        waiting = iter(job_ids)
        running: set[str] = set()
        is_more = True
        try:
            while is_more or running:
                while is_more and (at_once is None or len(running) < at_once) and self._has_free_slot():
                    job_id = next(waiting, None)
                    if job_id is None:
                        is_more = False
                    else:
                        self.submit(job_id)
                        running.add(job_id)
                for started in sorted(running):
                    code = self.poll(started)
                    if code is not None:
                        running.discard(started)
                        yield started, code
                between(running)
                time.sleep(_MAP_POLL_SECONDS)
        finally:
            self._end(running)

    def _has_free_slot(self) -> bool:
        """Whether another job fits; where jobs run may be away for a while, and takes none then."""
        try:
            return self.capacity().free > 0
        except UnavailableError:
            return False

    def _end(self, job_ids: set[str]) -> None:
        """End what still runs, and free its slots."""
        for job_id in job_ids:
            self.cancel(job_id, grace=_MAP_GRACE)
        while job_ids:
            job_ids -= {job_id for job_id in job_ids if self.poll(job_id) is not None}
            time.sleep(_MAP_POLL_SECONDS)
