"""Jobs on the nodes of a Ray cluster: ids go there, exit codes come back, and Ray itself stays out of this process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, TypeVar

from shared.errors import SaturatedError, UnavailableError
from shared.jobs.executor import EXIT_INTERRUPTED, Capacity, Executor
from shared.telemetry import get_logger

# Importing Ray and joining a cluster takes seconds, on a busy machine many.
_CONNECT_SECONDS = 60.0
# The bridge speaks every second while the cluster answers.
_SILENCE_SECONDS = 20.0
# After a bridge ended, the next one is started this much later.
_RETRY_SECONDS = 5.0
# What the bridge gets, beyond the jobs' own grace, to tell how they ended.
_CLOSE_MARGIN_SECONDS = 10.0
_CLOSE_POLL_SECONDS = 0.05
_ADDRESS = re.compile(r"[A-Za-z0-9.\-]{1,253}:[0-9]{1,5}|\[[0-9A-Fa-f:.]{2,45}\]:[0-9]{1,5}")

Default = TypeVar("Default", int, None)

_LOG = get_logger(__name__)


class RayExecutor(Executor):
    """One actor of a Ray cluster per job, which runs the worker module as a child process of its node.

    This machine must be a node of the cluster (it may offer no CPUs); settings and code are what the other nodes hold.
    """

    name = "ray"

    def __init__(
        self, *, address: str, token_file: Path | None, worker_module: str, cpus_per_job: float = 1, gpus_per_job: float = 0
    ) -> None:
        if not _ADDRESS.fullmatch(address):
            raise ValueError("LETHE_RAY_ADDRESS must be host:port of the cluster's head node, such as ray-head:6379.")
        if find_spec("ray") is None:
            raise ValueError("LETHE_RAY_ADDRESS needs Ray, which is not installed; install lethe[ray].")
        told = {"address": address, "worker_module": worker_module, "cpus_per_job": cpus_per_job, "gpus_per_job": gpus_per_job}
        self._argv = [sys.executable, "-m", "shared.jobs.ray_bridge", json.dumps(told)]
        self._environment = _bridge_environment(_require_token(token_file))
        self._address = address
        self._slots: dict[str, int] = {}
        self._ended: dict[str, int] = {}
        self._bridge: _BridgeProcess | None = None
        self._start_at = 0.0

    def submit(self, job_id: str) -> int:
        """Send a job to the cluster."""
        bridge = self._connected()
        if self.capacity().free <= 0:
            raise SaturatedError(f"All {len(self._slots)} job slots are in use.")
        taken = set(self._slots.values())
        slot = next(number for number in range(len(taken) + 1) if number not in taken)
        bridge.say(do="submit", job=job_id)
        self._slots[job_id] = slot
        return slot

    def poll(self, job_id: str) -> int | None:
        """The exit code of a job that ended; a job whose cluster went away was interrupted, which is not its fault."""
        self._tend()
        code = self._ended.pop(job_id, None)
        if code is None and self._bridge is not None:
            code = self._bridge.exit_code(job_id, default=None)
        if code is not None:
            del self._slots[job_id]
        return code

    def cancel(self, job_id: str, *, grace: timedelta) -> None:
        """Ask for the end of a job; its node sends SIGTERM, and SIGKILL after the grace."""
        if job_id in self._slots and self._bridge is not None:
            self._bridge.say(do="stop", job=job_id, grace=grace.total_seconds())

    def capacity(self) -> Capacity:
        """Slots of the cluster's living nodes; UnavailableError while the cluster does not answer."""
        slots = self._connected().slots or 0
        # A node that died takes its slots with it before its jobs are known to be lost.
        return Capacity(slots=max(slots, len(self._slots)), busy=len(self._slots))

    def close(self, *, grace: timedelta) -> dict[str, int]:
        """End all jobs and leave the cluster; what is not known to have ended then ends with the connection."""
        codes: dict[str, int] = {}
        self._start_at = float("inf")
        for job_id in self._slots:
            self.cancel(job_id, grace=grace)
        deadline = time.monotonic() + grace.total_seconds() + _CLOSE_MARGIN_SECONDS
        while self._slots and time.monotonic() < deadline:
            codes |= {job_id: code for job_id in list(self._slots) if (code := self.poll(job_id)) is not None}
            time.sleep(_CLOSE_POLL_SECONDS)
        codes |= dict.fromkeys(self._slots, EXIT_INTERRUPTED)
        self._slots.clear()
        if self._bridge is not None:
            self._bridge.end()
            self._bridge = None
        return codes

    def _connected(self) -> _BridgeProcess:
        """The bridge, once the cluster answered it."""
        self._tend()
        if self._bridge is None or self._bridge.slots is None:
            raise UnavailableError(f"The Ray cluster at {self._address} does not answer.")
        return self._bridge

    def _tend(self) -> None:
        """Give up on a bridge that ended or fell silent, with the jobs that it held; start one when it is time."""
        now = time.monotonic()
        if self._bridge is not None and self._bridge.is_lost(now):
            self._bridge.end()
            _LOG.warning("ray cluster away", reason=self._bridge.failure, jobs=len(self._slots))
            self._ended = {job_id: self._bridge.exit_code(job_id, default=EXIT_INTERRUPTED) for job_id in self._slots}
            self._bridge = None
            self._start_at = now + _RETRY_SECONDS
        if self._bridge is None and now >= self._start_at:
            self._bridge = _BridgeProcess(self._argv, self._environment)


class _BridgeProcess:
    """The process that speaks to Ray, and what was heard from it."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self.slots: int | None = None
        self.failure = "silence"
        self._exit_codes: dict[str, int] = {}
        self._heard = time.monotonic()
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,), name="ray-bridge", daemon=True)
        self._listener.start()

    def say(self, **command: Any) -> None:
        """Send a command; one that the bridge does not live to read is answered by its loss."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(command) + "\n")
                self._process.stdin.flush()

    def exit_code(self, job_id: str, *, default: Default) -> int | Default:
        """The exit code of a job that ended, told once."""
        return self._exit_codes.pop(job_id, default)

    def is_lost(self, now: float) -> bool:
        """Whether it ended, or was silent for so long that the cluster must be away."""
        patience = _CONNECT_SECONDS if self.slots is None else _SILENCE_SECONDS
        return self._process.poll() is not None or now - self._heard > patience

    def end(self) -> None:
        """End the process, and with it its jobs: Ray ends the actors of a driver that is gone."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _listen(self, lines: IO[str]) -> None:
        """The thread's loop: until the bridge's output ends."""
        for line in lines:
            told = json.loads(line)
            self._heard = time.monotonic()
            if "slots" in told:
                self.slots = told["slots"]
            elif "job" in told:
                self._note_end(told)
            else:
                self.failure = told["failed"]

    def _note_end(self, told: dict[str, Any]) -> None:
        """A job's process ended, or the node under it."""
        code = told["code"]
        if code is None:
            _LOG.warning("ray lost a job", job_id=told["job"], reason=told["reason"])
            code = -signal.SIGKILL
        self._exit_codes[told["job"]] = code


def _require_token(token_file: Path | None) -> Path:
    """The file of the cluster's token; ValueError without one, because a cluster without tokens runs anybody's code."""
    if token_file is None:
        raise ValueError("LETHE_RAY_ADDRESS needs LETHE_RAY_TOKEN_FILE; a Ray cluster without token authentication is not used.")
    try:
        token = token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ValueError("LETHE_RAY_TOKEN_FILE cannot be read; it must hold the cluster's token.") from None
    if not token:
        raise ValueError("LETHE_RAY_TOKEN_FILE is empty; it must hold the cluster's token.")
    return token_file.resolve()


def _bridge_environment(token_file: Path) -> dict[str, str]:
    """What the bridge gets: nothing of Lethe's settings, whose secrets it does not need, and token authentication for certain."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LETHE_", "RAY_AUTH_"))}
    return kept | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file), "RAY_USAGE_STATS_ENABLED": "0"}
