"""Starts the four services as child processes, watches them, and leaves none behind however it ends."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

import httpx
import psutil

from shared.database import Database
from shared.errors import LetheError
from shared.http.migrations import migrate
from shared.jobs.executor import PARENT_VARIABLE
from shared.settings import Settings

SERVICES: Final = ("trainer", "sampler", "detector", "mitigator")
FIRST_PORT: Final = 8001
_HOST: Final = "127.0.0.1"

# Importing the tensor libraries from a cold disk can take a minute.
START_PATIENCE: Final = timedelta(minutes=3)
# Requests under way get 10 seconds of a service's end, and after them its jobs 8 seconds.
STOP_PATIENCE: Final = timedelta(seconds=25)
_POLL_SECONDS: Final = 0.1
_TAIL_LINES: Final = 15
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class StartError(LetheError):
    """The services cannot be started, or one of them ended; the message says which and where to look."""


class StopRequested(BaseException):
    """SIGTERM, SIGHUP or Ctrl-C arrived; not an Exception, so that nothing on the way takes it for a failure."""


@dataclass(frozen=True, slots=True)
class Service:
    """A started service."""

    name: str
    port: int
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{_HOST}:{self.port}"


class Supervisor:
    """The four services of one home folder."""

    def __init__(self, *, home: Path, ports: Sequence[int], threads: int) -> None:
        self.home = home.resolve()
        self.logs = self.home / "logs"
        self._ports = dict(zip(SERVICES, ports, strict=True))
        self._environment = service_environment(home=self.home, ports=self._ports, threads=threads)
        self.services: list[Service] = []

    def __enter__(self) -> Self:
        """Use as a context manager: nothing runs before `start`, nothing is left after the end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop all services."""
        self.stop()

    def start(self) -> None:
        """Start all services and wait until they are ready; StartError when a port is taken or one of them does not start."""
        refuse_taken_ports(self._ports)
        with closing(Database.open(Settings(home=self.home))) as database:
            migrate(database)  # who starts the house is its operator, also where LETHE_DATABASE_URL names a PostgreSQL
        self.logs.mkdir(parents=True, exist_ok=True)
        for name, port in self._ports.items():
            self.services.append(self._start(name, port))
        self._wait_until_ready()

    def settings(self) -> Settings:
        """Settings that find these services."""
        urls = {f"{service.name}_url": service.url for service in self.services}
        return Settings.model_validate({"home": self.home, **urls})

    def watch(self) -> None:
        """Return never; StartError as soon as a service ends by itself."""
        while True:
            self.check()
            time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """StartError when a service has ended."""
        for service in self.services:
            code = service.process.poll()
            if code is not None:
                raise StartError(
                    f"The {service.name} ended by itself ({_ending(code)}); its log is {service.log}.\n{_tail(service.log)}".rstrip()
                )

    def stop(self) -> None:
        """End the services and all they started: SIGTERM, then SIGKILL to what is left after the patience."""
        alive = [service for service in self.services if service.process.poll() is None]
        family = _descendants(alive)
        for service in alive:
            service.process.terminate()
        deadline = time.monotonic() + STOP_PATIENCE.total_seconds()
        for service in alive:
            try:
                service.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                family |= _descendants([service])
                service.process.kill()
                service.process.wait()
        for process in family:
            with _gone_is_fine():
                process.kill()
        self.services.clear()

    def _start(self, name: str, port: int) -> Service:
        """One service in a session of its own, so that Ctrl-C reaches this process only."""
        log = self.logs / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", f"services.{name}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **self._environment, PARENT_VARIABLE: str(os.getpid())},
            )
        return Service(name, port, log, process)

    def _wait_until_ready(self) -> None:
        """Return once each service lives and is ready."""
        deadline = time.monotonic() + START_PATIENCE.total_seconds()
        for service in self.services:
            while not _is_ready(service.url):
                self.check()
                if time.monotonic() > deadline:
                    raise StartError(f"The {service.name} is not ready in time; its log is {service.log}.\n{_tail(service.log)}".rstrip())
                time.sleep(_POLL_SECONDS)


def service_environment(*, home: Path, ports: Mapping[str, int], threads: int) -> dict[str, str]:
    """What the services are told beyond what this process was told itself."""
    urls = {f"LETHE_{name.upper()}_URL": f"http://{_HOST}:{port}" for name, port in ports.items()}
    return {
        **urls,
        "LETHE_HOME": str(home),
        "LETHE_TORCH_THREADS": str(threads),
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        # Threads that spin while they wait take the cores away from the other services.
        "OMP_WAIT_POLICY": "PASSIVE",
        # An arena for every thread of glibc's would keep what requests have long freed.
        "MALLOC_ARENA_MAX": "2",
        # A folder named services where `lethe` is called must not be taken for Lethe's own.
        "PYTHONSAFEPATH": "1",
        "HF_HUB_OFFLINE": "1",
        "DIFFUSERS_DISABLE_REMOTE_CODE": "1",
    }


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else (os.cpu_count() or 1)


def refuse_taken_ports(ports: Mapping[str, int]) -> None:
    """StartError that names each port on which something listens already."""
    taken = [f"{port} ({name})" for name, port in ports.items() if _is_taken(port)]
    if taken:
        noun = "Port" if len(taken) == 1 else "Ports"
        verb = "is" if len(taken) == 1 else "are"
        raise StartError(f"{noun} {', '.join(taken)} on {_HOST} {verb} taken; stop what listens there, or choose others with --ports.")


def free_ports(count: int) -> list[int]:
    """Loopback ports that nothing listens on; all are held until all are found, so that they differ."""
    held = [socket.socket() for _ in range(count)]
    try:
        for probe in held:
            probe.bind((_HOST, 0))
        return [int(probe.getsockname()[1]) for probe in held]
    finally:
        for probe in held:
            probe.close()


@contextmanager
def stop_signals() -> Iterator[None]:
    """Turn SIGTERM, SIGHUP and Ctrl-C into StopRequested, once; further ones are ignored while things are stopped."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        """Ask once."""
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise StopRequested

    before = {number: signal.signal(number, request_stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_taken(port: int) -> bool:
    """Whether a service could not listen there."""
    with socket.socket() as probe:
        # As the services do: a connection that lingers from the last run does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return True
            raise
    return False


def _is_ready(url: str) -> bool:
    """Whether a service lives and says that it should get work."""
    try:
        return all(httpx.get(url + path, timeout=5, trust_env=False).is_success for path in ("/livez", "/readyz"))
    except httpx.TransportError:
        return False


def _descendants(services: Sequence[Service]) -> set[psutil.Process]:
    """The job workers and whatever else the services started."""
    found: set[psutil.Process] = set()
    for service in services:
        with _gone_is_fine():
            found |= set(psutil.Process(service.process.pid).children(recursive=True))
    return found


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    """A process that ended meanwhile needs no ending; psutil knows a reused id from the old process."""
    try:
        yield
    except psutil.NoSuchProcess:
        return


def _ending(code: int) -> str:
    """An exit code in words."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _tail(log: Path) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
