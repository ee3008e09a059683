"""Server processes are waited for, reported when they fail, and ended."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from tests.servers.processes import ServerProcess, ServerStartError, free_port, port_open


def test_process_that_ends_early_is_reported_with_its_log(tmp_path: Path) -> None:
    process = ServerProcess([sys.executable, "-c", "raise SystemExit('the port is taken')"], log=tmp_path / "log")
    with pytest.raises(ServerStartError, match="the port is taken"):
        process.wait_until(lambda: False)


def test_silent_process_is_ended_and_reported(tmp_path: Path) -> None:
    process = ServerProcess([sys.executable, "-c", "import time; time.sleep(60)"], log=tmp_path / "log")
    with pytest.raises(ServerStartError, match=r"did not answer within 0\.2 s"):
        process.wait_until(lambda: False, timeout_seconds=0.2)
    assert not psutil.pid_exists(process.pid)


def test_listening_process_is_seen_and_stopped(tmp_path: Path) -> None:
    port = free_port()
    process = ServerProcess([sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"], log=tmp_path / "log")
    process.wait_until(lambda: port_open(port))
    process.stop()
    assert not port_open(port)
    assert not psutil.pid_exists(process.pid)
