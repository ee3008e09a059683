"""Jobs as child processes of the service: the default, which needs nothing but this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from shared.errors import SaturatedError
from shared.jobs.executor import PARENT_VARIABLE, Capacity, Executor

# How often `close` looks whether the children are gone.
_CLOSE_POLL_SECONDS = 0.02
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(slots=True, kw_only=True)
class _Child:
    """A running child process."""

    process: subprocess.Popen[bytes]
    slot: int
    kill_at: float | None = field(default=None)


class ProcessExecutor(Executor):
    """One fresh interpreter per job, in its own process group; never forked, so that no lock or device handle is inherited.

    `submit` must be called on a thread that lives as long as the service: Linux kills the child when that thread ends.
    """

    name = "process"

    def __init__(self, *, worker_module: str, slots: int, torch_threads: int = 0, environment: Mapping[str, str] | None = None) -> None:
        self._worker_module = worker_module
        self._slots = slots
        self._environment = dict(environment or {})
        if torch_threads:
            self._environment |= dict.fromkeys(_THREAD_VARIABLES, str(torch_threads))
        self._children: dict[str, _Child] = {}

    def submit(self, job_id: str) -> int:
        """Start the worker module for a job."""
        taken = {child.slot for child in self._children.values()}
        slot = next((number for number in range(self._slots) if number not in taken), None)
        if slot is None:
            raise SaturatedError(f"All {self._slots} job slots are in use.")
        process = subprocess.Popen(
            [sys.executable, "-m", self._worker_module, job_id],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **self._environment, PARENT_VARIABLE: str(os.getpid())},
        )
        self._children[job_id] = _Child(process=process, slot=slot)
        return slot

    def poll(self, job_id: str) -> int | None:
        """The exit code of a job that ended; one whose grace is over is killed on the way."""
        child = self._children[job_id]
        code = child.process.poll()
        if code is None:
            if child.kill_at is not None and time.monotonic() >= child.kill_at:
                _signal_group(child.process, signal.SIGKILL)
            return None
        # What the worker itself started (data loaders, ranks) must not outlive it.
        _signal_group(child.process, signal.SIGKILL)
        del self._children[job_id]
        return code

    def cancel(self, job_id: str, *, grace: timedelta) -> None:
        """Send SIGTERM now; `poll` sends SIGKILL once the grace is over."""
        child = self._children.get(job_id)
        if child is None:
            return
        deadline = time.monotonic() + grace.total_seconds()
        if child.kill_at is None:
            _signal_group(child.process, signal.SIGTERM)
            child.kill_at = deadline
        child.kill_at = min(child.kill_at, deadline)

    def capacity(self) -> Capacity:
        """Slots in all and in use."""
        return Capacity(slots=self._slots, busy=len(self._children))

    def close(self, *, grace: timedelta) -> dict[str, int]:
        """SIGTERM to all children, SIGKILL to those that are left after the grace."""
        codes: dict[str, int] = {}
        for job_id in self._children:
            self.cancel(job_id, grace=grace)
        while self._children:
            for job_id in list(self._children):
                code = self.poll(job_id)
                if code is not None:
                    codes[job_id] = code
            if self._children:
                time.sleep(_CLOSE_POLL_SECONDS)
        return codes


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal a child and all it started; nothing happens when none is left."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
    except PermissionError:
        # macOS answers so for a group whose only member waits to be reaped.
        return
