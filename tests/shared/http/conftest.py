"""The fake service: entered in process for httpx, or served by a real uvicorn on loopback."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from shared.settings import Settings
from tests.shared.http.fake_app import ROOT, FakeState, make_app


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a fresh home, with small limits."""
    return Settings(home=tmp_path, body_limit_bytes=4096, upload_limit_bytes=65536)


class Service:
    """The fake service in process."""

    def __init__(self, client: httpx.AsyncClient, state: FakeState, app: Any) -> None:
        self.client = client
        self.state = state
        self.app = app


@pytest.fixture
async def service(settings: Settings, anyio_backend: str) -> AsyncIterator[Service]:
    """The fake service with its lifespan entered; its jobs stay queued."""
    del anyio_backend
    app = make_app(settings, run_jobs=False)
    async with app.router.lifespan_context(app) as made:
        assert made is not None
        state = dict(made)

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            """What a server does and httpx's transport does not: hand the lifespan's state to each request."""
            await app({**scope, "state": dict(state)}, receive, send)

        transport = httpx.ASGITransport(app=with_state)
        async with httpx.AsyncClient(transport=transport, base_url="http://fake") as client:
            yield Service(client, state["service"], app)


class Server:
    """The fake service as a process."""

    def __init__(self, process: subprocess.Popen[str], port: int, logs: Path, *, trust: ssl.SSLContext | None = None) -> None:
        self.process = process
        self.port = port
        scheme, verify = ("http", True) if trust is None else ("https", trust)
        self.client = httpx.Client(base_url=f"{scheme}://127.0.0.1:{port}", timeout=30, verify=verify)
        self._logs = logs

    def logs(self) -> str:
        """What the process wrote to stderr so far."""
        return self._logs.read_text(encoding="utf-8")


@pytest.fixture
def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def start_server(tmp_path: Path, free_port: int) -> Callable[..., Any]:
    """Starts servers of one home on one port, one after the other."""

    @contextmanager
    def start(*, trust: ssl.SSLContext | None = None) -> Iterator[Server]:
        environment = os.environ | {"LETHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        logs = tmp_path / "server.log"
        with logs.open("a", encoding="utf-8") as file:
            command = [sys.executable, "-m", "tests.shared.http.fake_app", str(free_port)]
            process = subprocess.Popen(command, env=environment, stderr=file, text=True)
        server = Server(process, free_port, logs, trust=trust)
        try:
            _wait_until_ready(server)
            yield server
        finally:
            server.client.close()
            process.terminate()
            try:
                process.wait(timeout=30)
            finally:
                process.kill()
                process.wait()

    return start


@pytest.fixture
def server(start_server: Callable[[], Any]) -> Iterator[Server]:
    """A served fake service that runs jobs."""
    with start_server() as started:
        yield started


def _wait_until_ready(server: Server) -> None:
    """Until it answers, half a minute at most."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert server.process.poll() is None, server.logs()
        try:
            if server.client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(server.logs())
