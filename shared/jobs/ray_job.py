"""What runs on a node of a Ray cluster for one job: the same child process that runs it on a single machine."""

from __future__ import annotations

import time
from datetime import timedelta

from shared.jobs.executor import EXIT_INTERRUPTED
from shared.jobs.process_executor import ProcessExecutor

# How soon the end of a job and the wish to end it are noticed.
_POLL_SECONDS = 0.1


class RayJob:
    """One job on a node; an actor, so that `stop` can be called while `run` lasts. It knows nothing of Ray itself."""

    def __init__(self, worker_module: str) -> None:
        self._executor = ProcessExecutor(worker_module=worker_module, slots=1)
        self._grace: timedelta | None = None

    def run(self, job_id: str) -> int:
        """Run the worker module for a job; answers its exit code."""
        if self._grace is not None:
            return EXIT_INTERRUPTED
        self._executor.submit(job_id)
        while (code := self._executor.poll(job_id)) is None:
            self._pass_on_stop(job_id)
            time.sleep(_POLL_SECONDS)
        return code

    def stop(self, grace_seconds: float) -> None:
        """Ask the process to end, and end it after the grace."""
        self._grace = timedelta(seconds=grace_seconds)

    def _pass_on_stop(self, job_id: str) -> None:
        """On the thread of `run`: tell the process to end, once that was asked for."""
        if self._grace is not None:
            self._executor.cancel(job_id, grace=self._grace)
