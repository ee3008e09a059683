"""Serving: loopback only, clear about ports, clean at the end, no job lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fastapi import FastAPI

from shared.http import serve as serve_module
from shared.http.serve import EXIT_PORT_TAKEN, EXIT_REFUSED, serve
from tests.shared.http.fake_app import ROOT

pytestmark = pytest.mark.server


def test_taken_port_is_told_clearly(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "tests.shared.http.fake_app", str(port)],
            env=os.environ | {"LETHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == EXIT_PORT_TAKEN
    assert done.stderr == f"Port {port} on 127.0.0.1 is taken; stop what listens there, or choose another port.\n"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])  # noqa: S104 - refused is the point
def test_address_that_others_reach_is_refused(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        serve(FastAPI(), host=host, port=1)
    assert left.value.code == EXIT_REFUSED
    assert host in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_service_with_success(server: Any, number: signal.Signals) -> None:
    server.process.send_signal(number)
    assert server.process.wait(timeout=30) == 0


def test_answers_do_not_wait_for_the_callers_acknowledgement() -> None:
    with serve_module._listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            # asyncio sets TCP_NODELAY on such sockets only.
            assert accepted.proto == socket.IPPROTO_TCP


def test_second_server_may_have_the_port_once_the_first_left(start_server: Callable[[], Any]) -> None:
    for _ in range(2):
        with start_server() as server:
            assert server.client.get("/v1/info").json()["service"] == "fake"


def test_stop_during_a_stream_and_a_job_is_quick_and_the_next_start_finishes_the_job(start_server: Callable[[], Any]) -> None:
    with start_server() as server:
        location = server.client.post("/v1/things", json={"prompt": "p", "steps": 100}).headers["location"]
        children: list[psutil.Process] = []
        ended = threading.Event()

        def follow() -> None:
            """Read the stream to its end, as a client would."""
            with httpx.stream("GET", f"http://127.0.0.1:{server.port}{location}/events", timeout=30) as response:
                for _ in response.iter_lines():
                    pass
            ended.set()

        reader = threading.Thread(target=follow)
        reader.start()
        while server.client.get(location).json()["progress"]["step"] == 0:
            time.sleep(0.05)
        children = psutil.Process(server.process.pid).children(recursive=True)
        started = time.monotonic()
        server.process.terminate()
        assert server.process.wait(timeout=30) == 0
        assert time.monotonic() - started < 8
        reader.join(timeout=10)
        assert ended.is_set()
    assert children
    assert [child for child in children if child.is_running()] == []
    with start_server() as server:
        deadline = time.monotonic() + 30
        while server.client.get(location).json()["state"] != "succeeded":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert server.client.get(location).json()["result"] == {"steps": 100}
