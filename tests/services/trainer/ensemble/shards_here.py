"""An executor that runs the shards of an ensemble in this process, one after another, and lets them die where a test says."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING
from unittest import mock

from services.trainer.checkpointing import PhaseCheckpoints
from services.trainer.worker import HANDLERS
from shared.jobs.executor import Capacity, Executor
from shared.jobs.records import JobStore
from shared.jobs.worker import run_attempt

if TYPE_CHECKING:
    from shared.diffusion.optimisation import Run
    from shared.settings import Settings


class KilledError(BaseException):
    """A process that ended here and now: nothing catches it."""


class ShardsHere(Executor):
    """Runs a job when it is submitted; `dies` says before which step of its run a job is killed, 0 for at once."""

    name = "here"

    def __init__(self, settings: Settings, dies: Callable[[str], int | None] = lambda _job: None) -> None:
        self.settings = settings
        self.dies = dies
        self.submitted: list[str] = []
        self._codes: dict[str, int] = {}

    def submit(self, job_id: str) -> int:
        """Run it."""
        self.submitted.append(job_id)
        self._codes[job_id] = self._run(job_id, self.dies(job_id))
        return 0

    def poll(self, job_id: str) -> int | None:
        """How it ended."""
        return self._codes.pop(job_id)

    def cancel(self, job_id: str, *, grace: timedelta) -> None:
        """It has ended."""

    def capacity(self) -> Capacity:
        """One job at a time."""
        return Capacity(slots=1, busy=len(self._codes))

    def close(self, *, grace: timedelta) -> dict[str, int]:  # noqa: ARG002 - as the protocol has it
        """Nothing runs."""
        return {}

    def _run(self, job_id: str, dies_at: int | None) -> int:
        """One attempt, with the handler of SIGTERM that this process had."""
        if dies_at == 0:
            return -signal.SIGKILL
        keep = PhaseCheckpoints.after_step
        told = signal.getsignal(signal.SIGTERM)
        store = JobStore(self.settings.sql_url)

        def after_step(self: PhaseCheckpoints, run: Run) -> None:
            if run.step == dies_at:
                raise KilledError
            keep(self, run)
            if dies_at is not None:
                assert self._training._uploads.wait(60)  # what is to be gone on from is there

        try:
            with mock.patch.object(PhaseCheckpoints, "after_step", after_step):
                return run_attempt(job_id, store=store, settings=self.settings, handlers=HANDLERS)
        except KilledError:
            return -signal.SIGKILL
        finally:
            store.close()
            signal.signal(signal.SIGTERM, told)
