"""`lethe up` with the real services: it says where things are, refuses a taken port, and leaves nothing behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from shared.cli.supervisor import SERVICES, free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LETHE = [sys.executable, "-c", "from shared.cli import main; main()"]


class Up:
    """A running `lethe up`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ports = free_ports(4)
        command = [*LETHE, "up", "--home", str(home), "--ports", ",".join(map(str, self.ports))]
        self.process = subprocess.Popen(
            command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
        self.said = ""

    def wait(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if "Ctrl-C" in line:
                return
        pytest.fail(f"lethe up ended: {self.said}")

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[SERVICES.index(service)]}"

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path)
    try:
        running.wait()
        yield running
    finally:
        with suppress(ProcessLookupError):
            running.process.kill()
        running.process.communicate()


def start_job(up: Up) -> None:
    """Make the trainer start a job worker that takes a while."""
    body = {"name": "p", "source": {"format": "phantom", "patients": 2000}, "canaries": {"count": 2, "repeats": 2}}
    answer = httpx.post(f"{up.url('trainer')}/v1/datasets", json=body)
    assert answer.status_code == 202, answer.text
    while len(up.family()) == len(SERVICES):
        time.sleep(0.05)


def left_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    return psutil.wait_procs(processes, timeout=30)[1]


def test_up_says_where_everything_is_and_sigterm_leaves_nothing(up: Up) -> None:
    said = "".join(up.said.split())
    assert [service for service in SERVICES if up.url(service) not in said] == []
    assert str(up.home / "lethe.db") in said
    for service in SERVICES:
        assert httpx.get(f"{up.url(service)}/v1/info").json()["service"] == service
    start_job(up)
    family = up.family()
    assert len(family) >= 5
    up.process.send_signal(signal.SIGTERM)
    up.process.wait(60)
    assert up.process.returncode == 0
    assert left_of(family) == []


def test_killed_up_leaves_nothing(up: Up) -> None:
    start_job(up)
    family = up.family()
    assert len(family) >= 5
    up.process.kill()
    assert left_of(family) == []


def test_taken_port_is_refused_and_nothing_starts(tmp_path: Path) -> None:
    ports = free_ports(4)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", ports[1]))
        listener.listen()
        command = [*LETHE, "up", "--home", str(tmp_path / "home"), "--ports", ",".join(map(str, ports))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"Port {ports[1]} (sampler) on 127.0.0.1 is taken" in " ".join(done.stderr.split())
    assert not (tmp_path / "home").exists()
