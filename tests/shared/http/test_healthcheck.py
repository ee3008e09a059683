"""The health check that containers run tells by its exit code, and in words, whether an address answers 200."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from shared.http import healthcheck
from shared.http.healthcheck import EXIT_HEALTHY, EXIT_UNHEALTHY, EXIT_USAGE, check, main
from shared.settings import Settings
from tests.fixtures.certificates import Certificate
from tests.servers.processes import free_port


class Service(BaseHTTPRequestHandler):
    """Ready at one path and not ready at the others."""

    def do_GET(self) -> None:
        body = b'{"status": "ready"}' if self.path == "/readyz" else b'{"reasons": ["draining"]}'
        self.send_response(200 if self.path == "/readyz" else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Service) as server, serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


@contextmanager
def serving(server: HTTPServer) -> Iterator[None]:
    """Answer while the block lasts."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


def test_address_that_answers_200_is_healthy(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{url}/readyz"]) == EXIT_HEALTHY
    assert capsys.readouterr().out == ""


def test_address_that_answers_503_is_not_and_its_reasons_are_shown(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{url}/draining"]) == EXIT_UNHEALTHY
    assert 'answers 503: {"reasons": ["draining"]}' in capsys.readouterr().out


def test_service_with_a_certificate_is_asked_over_tls(
    url: str, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(healthcheck, "get_settings", lambda: Settings(tls_certificate=certificate.chain, tls_key=certificate.key))
    assert main([f"{url}/readyz"]) == EXIT_UNHEALTHY
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain, certificate.key)
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        with serving(server):
            assert main([f"http://localhost:{server.server_port}/readyz"]) == EXIT_HEALTHY
            assert main([f"http://127.0.0.1:{server.server_port}/draining"]) == EXIT_UNHEALTHY
    assert ["does not answer" in line or "answers 503" in line for line in capsys.readouterr().out.splitlines()] == [True, True]


def test_silent_address_is_not_healthy() -> None:
    assert "does not answer" in str(check(f"http://127.0.0.1:{free_port()}/readyz"))


def test_proxy_of_the_environment_is_not_asked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert check(f"{url}/readyz") is None


def test_address_that_is_no_http_is_refused() -> None:
    with pytest.raises(ValueError, match="must begin with http://"):
        check("file:///etc/passwd")


def test_wrong_number_of_arguments_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == EXIT_USAGE
    assert "Usage" in capsys.readouterr().err
