"""The end of a service under load: what was accepted is answered, what comes later is refused or closed without an answer."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.server
CALLERS = 12
NAP_MILLISECONDS = 150
PATIENCE_SECONDS = 60


class Load:
    """Callers that ask again and again, and what became of each of their requests."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.answered: dict[int, int] = {}
        self.unanswered: list[int] = []
        self.refused = threading.Event()
        self._numbers = iter(range(1_000_000))
        self._lock = threading.Lock()
        self._callers = [threading.Thread(target=self._call) for _ in range(CALLERS)]

    def start(self) -> None:
        for caller in self._callers:
            caller.start()

    def join(self) -> None:
        for caller in self._callers:
            caller.join(60)

    def _call(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while True:
                with self._lock:
                    number = next(self._numbers)
                try:
                    status = client.post("/v1/naps", json={"number": number, "milliseconds": NAP_MILLISECONDS}).status_code
                except httpx.TransportError:
                    # Refused, or a connection that was closed before the service had read anything of the request.
                    self.unanswered.append(number)
                    self.refused.set()
                    return
                self.answered[number] = status


def begun(logs: str) -> set[int]:
    """The requests that reached their route."""
    lines = [json.loads(line) for line in logs.splitlines() if line.startswith("{")]
    return {line["number"] for line in lines if line["event"] == "nap begun"}


def wait_for(condition: Callable[[], object]) -> None:
    """Return once it holds; fail where it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_sigterm_under_load_loses_no_accepted_request(start_server: Callable[[], Any]) -> None:
    with start_server() as server:
        load = Load(server.port)
        load.start()
        wait_for(lambda: len(load.answered) >= 3 * CALLERS)
        server.process.terminate()
        assert server.process.wait(timeout=60) == 0
        load.join()
        accepted = begun(server.logs())
    assert set(load.answered.values()) == {200}
    assert accepted == set(load.answered)
    assert len(load.unanswered) == CALLERS


def test_request_that_cannot_end_in_time_is_answered_503(start_server: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_DRAIN_SECONDS", "1")
    with start_server() as server:
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(server.client.post("/v1/naps", json={"number": 1, "milliseconds": 60_000}))

        caller = threading.Thread(target=ask)
        caller.start()
        wait_for(lambda: begun(server.logs()))
        server.process.terminate()
        caller.join(60)
        assert server.process.wait(timeout=60) == 0
        assert "Traceback" not in server.logs()
    assert (answers[0].status_code, answers[0].json()["type"]) == (503, "urn:lethe:problem:dependency-unavailable")
    assert int(answers[0].headers["retry-after"]) > 0


def test_request_under_way_is_answered_and_its_connection_closed(start_server: Callable[[], Any]) -> None:
    with start_server() as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(b"POST /v1/naps HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 35\r\n\r\n")
            connection.sendall(b'{"number": 1, "milliseconds": 500 }')
            wait_for(lambda: begun(server.logs()))
            server.process.terminate()
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        assert received.startswith(b"HTTP/1.1 200")
        assert b'{"number":1}' in received
        assert server.process.wait(timeout=60) == 0
