"""Serving: loopback only, clear about ports, clean at the end, no job lost."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import ssl
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
from shared.settings import Settings, get_settings
from tests.fixtures.certificates import Certificate
from tests.shared.http.fake_app import ROOT

pytestmark = pytest.mark.server
PATIENCE_SECONDS = 60


def wait_for(condition: Callable[[], object]) -> None:
    """Return once it holds; fail where it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


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


@pytest.mark.usefixtures("logged")
@pytest.mark.parametrize("service", ["trainer", "sampler", "detector", "mitigator"])
def test_setting_that_cannot_be_used_ends_a_service_with_its_name(
    service: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LETHE_JOB_SLOTS", "quokka")
    get_settings.cache_clear()
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"services.{service}.app").main()
    assert ended.value.code == EXIT_REFUSED
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in told] == ["LETHE_JOB_SLOTS cannot be used"]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])  # noqa: S104 - refused is the point
@pytest.mark.parametrize(
    ("set_so_far", "missing"),
    [
        ({}, "LETHE_AUTH=on"),
        ({"trusted_proxies": "192.0.2.0/24"}, "LETHE_AUTH=on"),
        ({"auth": "on"}, "LETHE_TLS_CERTIFICATE and LETHE_TLS_KEY, or LETHE_TRUSTED_PROXIES"),
    ],
)
def test_address_that_others_reach_is_refused_and_what_is_missing_is_told(
    host: str, set_so_far: dict[str, str], missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"[{host}]" if ":" in host else host
    for settings, url in ((Settings(listen_host=host), "http://127.0.0.1:1"), (Settings(), f"http://{name}:1")):
        with pytest.raises(SystemExit) as left:
            serve(FastAPI(), url=url, default_port=1, settings=settings.model_copy(update=set_so_far))
        assert left.value.code == EXIT_REFUSED
        told = capsys.readouterr().err
        assert f"Refusing to listen on {host}:" in told
        assert missing in told


@pytest.mark.parametrize("proxies", ["192.0.2.7", "192.0.2.0/24, 2001:db8::/32"])
def test_authentication_behind_a_stated_proxy_may_listen_anywhere(proxies: str) -> None:
    serve_module._require_safe_place("0.0.0.0", Settings(auth="on", trusted_proxies=proxies))  # noqa: S104 - allowed is the point


def test_certificate_that_cannot_be_used_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "crt.pem").write_text("no certificate", encoding="utf-8")
    settings = Settings(tls_certificate=tmp_path / "crt.pem", tls_key=tmp_path / "key.pem")
    with pytest.raises(SystemExit) as left:
        serve(FastAPI(), url="https://127.0.0.1:1", default_port=1, settings=settings)
    assert left.value.code == EXIT_REFUSED
    assert "crt.pem" in capsys.readouterr().err


def test_certificate_is_shown_and_plain_requests_get_nothing(
    start_server: Callable[..., Any], free_port: int, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LETHE_TLS_CERTIFICATE", str(certificate.chain))
    monkeypatch.setenv("LETHE_TLS_KEY", str(certificate.key))
    trust = ssl.create_default_context(cafile=certificate.chain)
    with start_server(trust=trust) as server:
        assert server.client.get("/v1/info").json()["service"] == "fake"
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{free_port}/v1/info")
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"https://127.0.0.1:{free_port}/v1/info")


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


def test_stop_during_a_stream_and_a_job_ends_both_and_the_next_start_finishes_the_job(start_server: Callable[[], Any]) -> None:
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
        wait_for(lambda: server.client.get(location).json()["progress"]["step"] > 0)
        children = psutil.Process(server.process.pid).children(recursive=True)
        server.process.terminate()
        assert server.process.wait(timeout=PATIENCE_SECONDS) == 0
        assert ended.wait(PATIENCE_SECONDS)
        reader.join()
    assert children
    assert [child for child in children if child.is_running()] == []
    with start_server() as server:
        wait_for(lambda: server.client.get(location).json()["state"] == "succeeded")
        assert server.client.get(location).json()["result"] == {"steps": 100}
