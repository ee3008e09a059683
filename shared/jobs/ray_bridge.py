"""The process that speaks to a Ray cluster for RayExecutor: `python -m shared.jobs.ray_bridge`, JSON lines in and out.

Ray ends a driver whose cluster is gone, and its calls hang until then. Here that costs a process, which is started again, not the service.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

import ray
from ray.exceptions import RayError

from shared.jobs.ray_job import RayJob

# An actor that was told to stop and is still there this long after its job's grace is ended by Ray.
_STOP_MARGIN_SECONDS = 5.0
_SLOTS_EVERY_SECONDS = 1.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class BridgeSettings:
    """What the bridge is told on its command line, as JSON."""

    address: str
    worker_module: str
    cpus_per_job: float
    gpus_per_job: float


@dataclass(slots=True, kw_only=True)
class _Submitted:
    """A job in the cluster, waiting there or running."""

    actor: Any
    outcome: Any
    kill_at: float | None = field(default=None)


class Bridge:
    """Submits jobs, passes the wish to end them on, and tells what became of them."""

    def __init__(self, settings: BridgeSettings, out: TextIO) -> None:
        self._settings = settings
        self._out = out
        self._jobs: dict[str, _Submitted] = {}
        self._actor_class = ray.remote(RayJob).options(
            num_cpus=settings.cpus_per_job,
            num_gpus=settings.gpus_per_job,
            # The record decides what is tried again, not Ray.
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=2,
        )

    def serve(self, commands: queue.Queue[dict[str, Any]]) -> None:
        """Carry out commands and report, forever: the end of standard input ends the process."""
        slots_due = 0.0
        while True:
            try:
                self._carry_out(commands.get(timeout=_POLL_SECONDS))
                continue
            except queue.Empty:
                self._report_ended()
            if time.monotonic() >= slots_due:
                self._say(slots=count_slots(ray.nodes(), cpus=self._settings.cpus_per_job, gpus=self._settings.gpus_per_job))
                slots_due = time.monotonic() + _SLOTS_EVERY_SECONDS

    def _carry_out(self, command: Mapping[str, Any]) -> None:
        """Submit a job, or stop one."""
        job_id = command["job"]
        if command["do"] == "submit":
            actor = self._actor_class.remote(self._settings.worker_module)
            self._jobs[job_id] = _Submitted(actor=actor, outcome=actor.run.remote(job_id))
        elif job_id in self._jobs:
            job = self._jobs[job_id]
            kill_at = time.monotonic() + command["grace"] + _STOP_MARGIN_SECONDS
            job.actor.stop.remote(command["grace"])
            job.kill_at = min(job.kill_at or kill_at, kill_at)

    def _report_ended(self) -> None:
        """Tell the exit codes of jobs that ended, and end those that should have."""
        for job in self._jobs.values():
            if job.kill_at is not None and time.monotonic() >= job.kill_at:
                ray.kill(job.actor)
                job.kill_at = None
        if not self._jobs:
            return
        outcomes = {job.outcome: job_id for job_id, job in self._jobs.items()}
        ended, _ = ray.wait(list(outcomes), num_returns=len(outcomes), timeout=0)
        for outcome in ended:
            self._report(outcomes[outcome])

    def _report(self, job_id: str) -> None:
        """Tell how a job ended: its process's exit code, or why Ray lost it."""
        job = self._jobs.pop(job_id)
        try:
            self._say(job=job_id, code=int(ray.get(job.outcome)))
        except RayError as error:
            # The node died, or Ray could not reach the actor for a moment; a job that is tried again must not still run there.
            ray.kill(job.actor)
            self._say(job=job_id, code=None, reason=type(error).__name__)

    def _say(self, **told: Any) -> None:
        """One line to the service."""
        self._out.write(json.dumps(told) + "\n")
        self._out.flush()


def count_slots(nodes: Iterable[Mapping[str, Any]], *, cpus: float, gpus: float) -> int:
    """How many jobs fit on the living nodes; one job runs on one node."""
    fitting = 0
    for node in nodes:
        if node["Alive"]:
            have = node["Resources"]
            wanted = [(have.get("CPU", 0.0), cpus), (have.get("GPU", 0.0), gpus)]
            fitting += int(min(amount // per_job for amount, per_job in wanted if per_job))
    return fitting


def read_commands(lines: Iterable[str], commands: queue.Queue[dict[str, Any]]) -> None:
    """Queue the service's commands; when it is gone, so is this process, whatever Ray is doing."""
    for line in lines:
        commands.put(json.loads(line))
    os._exit(0)


def main() -> None:
    """Connect, say so, serve."""
    out = _claim_output()
    try:
        settings = BridgeSettings(**json.loads(sys.argv[1]))
        commands: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=read_commands, args=(sys.stdin, commands), daemon=True).start()
        ray.init(address=settings.address, log_to_driver=False, configure_logging=False)
        Bridge(settings, out).serve(commands)
    except Exception as error:  # noqa: BLE001 - the service's log is the only one that anybody reads
        out.write(json.dumps({"failed": type(error).__name__}) + "\n")
        out.flush()
        # Ray's own way out waits for a cluster that may be gone.
        os._exit(1)


def _claim_output() -> TextIO:
    """Keep standard output for the protocol: what Ray prints, here and in its threads, goes nowhere."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    return out


if __name__ == "__main__":
    main()
