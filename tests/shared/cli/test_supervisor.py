"""Services are started, watched and ended with all they started, whatever ends the supervisor."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from shared.cli import supervisor as module
from shared.cli.supervisor import (
    SERVICES,
    StartError,
    StopRequested,
    Supervisor,
    free_ports,
    refuse_taken_ports,
    service_environment,
    stop_signals,
    usable_cores,
)

# Answers probes, and has a child of its own, as a service with a job has.
FAKE_SERVICE = """
import os, subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit
from shared.jobs.worker import die_with_parent
die_with_parent()
WORKER = "import time; from shared.jobs.worker import die_with_parent; die_with_parent(); time.sleep(60)"
worker = subprocess.Popen([sys.executable, "-c", WORKER], env={**os.environ, "LETHE_PARENT_PID": str(os.getpid())}, start_new_session=True)
print("started", flush=True)
if "%(name)s" == os.environ.get("FAIL"):
    sys.exit("cannot start: no weights")
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *arguments):
        pass
HTTPServer(("127.0.0.1", urlsplit(os.environ["LETHE_%(upper)s_URL"]).port), Handler).serve_forever()
"""
SUPERVISED = """
import sys
from pathlib import Path
from shared.cli.supervisor import Supervisor, StopRequested, free_ports, stop_signals
try:
    with stop_signals(), Supervisor(home=Path(sys.argv[1]), ports=free_ports(4), threads=1) as supervisor:
        supervisor.start()
        print("ready", flush=True)
        supervisor.watch()
except StopRequested:
    print("stopped", flush=True)
"""


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose services are small stand-ins, which children find before the real ones."""
    package = tmp_path / "services"
    for name in SERVICES:
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").touch()
        source = textwrap.dedent(FAKE_SERVICE) % {"name": name, "upper": name.upper()}
        (package / name / "__main__.py").write_text(source, encoding="utf-8")
    (package / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def supervised(house: Path) -> Iterator[subprocess.Popen[str]]:
    """A supervisor in a process of its own, whose services are ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISED, str(house / "home")], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def wait_until_gone(processes: list[psutil.Process]) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=15)
    return alive


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_signal_stops_services_and_what_they_started(supervised: subprocess.Popen[str], number: signal.Signals) -> None:
    started = family(supervised)
    assert len(started) == 8
    supervised.send_signal(number)
    out, _ = supervised.communicate(timeout=30)
    assert (supervised.returncode, out) == (0, "stopped\n")
    assert wait_until_gone(started) == []


def test_killed_supervisor_leaves_nothing(supervised: subprocess.Popen[str]) -> None:
    started = family(supervised)
    assert len(started) == 8
    supervised.kill()
    assert wait_until_gone(started) == []


def test_services_are_found_logged_and_ended(house: Path) -> None:
    with Supervisor(home=house / "home", ports=free_ports(4), threads=1) as supervisor:
        supervisor.start()
        processes = [psutil.Process(service.process.pid) for service in supervisor.services]
        settings = supervisor.settings()
        assert settings.home == house / "home"
        assert settings.sampler_url == supervisor.services[1].url
        assert [service.name for service in supervisor.services] == list(SERVICES)
        assert (house / "home" / "logs" / "detector.log").read_text(encoding="utf-8") == "started\n"
    assert wait_until_gone(processes) == []
    assert supervisor.services == []


def test_service_that_dies_is_told_and_ends_the_others(house: Path) -> None:
    with pytest.raises(StartError, match=r"The mitigator ended by itself \(signal 9\)") as caught:  # noqa: PT012, SIM117 - one story
        with Supervisor(home=house / "home", ports=free_ports(4), threads=1) as supervisor:
            supervisor.start()
            processes = [psutil.Process(service.process.pid) for service in supervisor.services]
            os.kill(supervisor.services[3].process.pid, signal.SIGKILL)
            supervisor.watch()
    assert "mitigator.log" in str(caught.value)
    assert wait_until_gone(processes) == []


def test_service_that_does_not_start_is_told_with_the_end_of_its_log(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "detector")
    with (
        pytest.raises(StartError, match=r"The detector ended by itself \(exit code 1\)[\s\S]*cannot start: no weights"),
        Supervisor(home=house / "home", ports=free_ports(4), threads=1) as supervisor,
    ):
        supervisor.start()
    assert supervisor.services == []


def test_service_that_ignores_its_end_is_killed(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = house / "services" / "sampler" / "__main__.py"
    stubborn.write_text("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + stubborn.read_text(encoding="utf-8"))
    monkeypatch.setattr(module, "STOP_PATIENCE", module.timedelta(seconds=1))
    with Supervisor(home=house / "home", ports=free_ports(4), threads=1) as supervisor:
        supervisor.start()
        services = [psutil.Process(service.process.pid) for service in supervisor.services]
        everyone = services + [child for service in services for child in service.children(recursive=True)]
    assert wait_until_gone(everyone) == []


def test_taken_port_is_refused_by_number_and_name_before_anything_starts(house: Path) -> None:
    ports = free_ports(4)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", ports[2]))
        listener.listen()
        with (
            pytest.raises(StartError, match=rf"Port {ports[2]} \(detector\) on 127\.0\.0\.1 is taken; .* --ports"),
            Supervisor(home=house / "home", ports=ports, threads=1) as supervisor,
        ):
            supervisor.start()
    assert not (house / "home").exists()


def test_several_taken_ports_are_all_named() -> None:
    with socket.socket() as first, socket.socket() as second:
        for listener in (first, second):
            listener.bind(("127.0.0.1", 0))
            listener.listen()
        numbers = [listener.getsockname()[1] for listener in (first, second)]
        with pytest.raises(StartError, match=rf"Ports {numbers[0]} \(trainer\), {numbers[1]} \(sampler\) .* are taken"):
            refuse_taken_ports(dict(zip(("trainer", "sampler"), numbers, strict=True)))


def test_free_ports_differ_and_can_be_listened_on() -> None:
    ports = free_ports(4)
    assert len(set(ports)) == 4
    refuse_taken_ports(dict(zip(SERVICES, ports, strict=True)))


def test_services_are_told_places_threads_and_that_they_are_offline() -> None:
    told = service_environment(home=Path("/h"), ports={"trainer": 9001}, threads=3)
    assert told["LETHE_TRAINER_URL"] == "http://127.0.0.1:9001"
    assert told["LETHE_HOME"] == "/h"
    assert (told["LETHE_TORCH_THREADS"], told["OMP_NUM_THREADS"], told["OMP_WAIT_POLICY"]) == ("3", "3", "PASSIVE")
    assert (told["HF_HUB_OFFLINE"], told["PYTHONSAFEPATH"]) == ("1", "1")


def test_stop_is_asked_for_once_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StopRequested), stop_signals():  # noqa: PT012 - the second signal must do nothing
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
    assert signal.getsignal(signal.SIGTERM) is before


def test_cores_are_counted() -> None:
    assert usable_cores() >= 1
