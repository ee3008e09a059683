"""Starting a server process, waiting until it answers, and ending it: only processes that were started here."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

POLL_SECONDS = 0.02
GRACE_SECONDS = 10.0


class ServerStartError(RuntimeError):
    """A server ended or stayed silent while it was started; the message ends with the tail of its log."""


def free_port() -> int:
    """A loopback port that nothing listens on, below those that the system hands to outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def port_open(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class ServerProcess:
    """One server process in its own session, its output in a log file."""

    def __init__(self, argv: list[str], *, log: Path, environment: Mapping[str, str] | None = None) -> None:
        # A test run that is killed takes its servers with it: the kernel ends them when their parent ends.
        setpriv = shutil.which("setpriv")
        guard = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*guard, *argv], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=environment
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def wait_until(self, ready: Callable[[], bool], *, timeout_seconds: float = 60.0) -> None:
        """Poll until `ready` holds; a process that ends first, or takes too long, is ended and reported with its log."""
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.stop()
                reason = "ended" if ended else f"did not answer within {timeout_seconds:g} s"
                raise ServerStartError(f"{self._process.args!r} {reason}:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(POLL_SECONDS)

    def kill(self) -> None:
        """End the process at once, as a power cut would."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End the process: SIGTERM, a grace period, then SIGKILL."""
        self._process.terminate()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
