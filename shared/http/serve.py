"""How a service is served: uvicorn where it is safe to listen, a clear word about a taken port, and a clean end."""

from __future__ import annotations

import errno
import os
import signal
import socket
import ssl
import sys
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI

from shared.errors import SettingsError
from shared.http.connections import HEAD_LIMIT_BYTES, IDLE_SECONDS, TimedConnection
from shared.http.state import Draining, draining_of
from shared.jobs.executor import PARENT_VARIABLE
from shared.jobs.worker import die_with_parent
from shared.settings import Settings, get_settings, is_loopback
from shared.telemetry import SpansUnavailableError, exporting

EXIT_PORT_TAKEN: Final = 69  # EX_UNAVAILABLE of sysexits.h
EXIT_REFUSED: Final = 78  # EX_CONFIG
_BACKLOG: Final = 256


def own_settings() -> Settings:
    """The settings of the service that starts; where they cannot be used, the end of the process with a sentence that names which."""
    try:
        return get_settings()
    except SettingsError as error:
        _leave(str(error), EXIT_REFUSED)


def serve(app: FastAPI, *, url: str, default_port: int, settings: Settings) -> None:
    """Serve at a URL (on LETHE_LISTEN_HOST, where that is set) until SIGTERM or Ctrl-C, then leave with code 0.

    An address other than loopback is refused unless callers are authenticated and what they send and get is encrypted.
    """
    address = urlsplit(url)
    host, port = settings.listen_host or address.hostname or "127.0.0.1", address.port or default_port
    _require_safe_place(host, settings)
    if PARENT_VARIABLE in os.environ:
        # Started by `lethe up`: whatever ends the supervisor, even SIGKILL, ends the service too.
        die_with_parent()
    listener = _listen(host, port)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has shut down; leaving then is success.
        signal.signal(number, lambda _number, _frame: sys.exit(0))
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.proxy_networks),
        forwarded_allow_ips=list(settings.proxy_networks),
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        ws="none",
        http=TimedConnection,
        h11_max_incomplete_event_size=HEAD_LIMIT_BYTES,
        timeout_keep_alive=IDLE_SECONDS,
        lifespan="on",
        timeout_graceful_shutdown=settings.drain_seconds,  # event streams end by themselves
    )
    server = _DrainingServer(config, draining=draining_of(app))
    try:
        with exporting(app.title, settings.otlp_endpoint):
            server.run(sockets=[listener])
    except SpansUnavailableError as error:
        _leave(str(error), EXIT_REFUSED)
    if not server.started:
        _leave("The service did not start; the log says why.", 1)


class _DrainingServer(uvicorn.Server):
    """uvicorn's server, which also tells the app as soon as it is to stop."""

    def __init__(self, config: uvicorn.Config, *, draining: Draining) -> None:
        super().__init__(config)
        self._draining = draining

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Turn readiness off and let event streams end, then shut down."""
        self._draining.begun = True
        super().handle_exit(sig, frame)


def _require_safe_place(host: str, settings: Settings) -> None:
    """End the process where requests would come unauthenticated or in the clear, or the certificate cannot be used."""
    if not is_loopback(host):
        if settings.auth == "off":
            _leave(f"Refusing to listen on {host}: callers are not authenticated; set LETHE_AUTH=on, or listen on 127.0.0.1.", EXIT_REFUSED)
        if settings.tls_certificate is None and not settings.proxy_networks:
            wanted = "set LETHE_TLS_CERTIFICATE and LETHE_TLS_KEY, or LETHE_TRUSTED_PROXIES when something in front ends TLS"
            _leave(f"Refusing to listen on {host}: credentials would travel in the clear; {wanted}.", EXIT_REFUSED)
    if settings.tls_certificate is not None:
        _require_certificate(settings.tls_certificate, settings.tls_key)


def _require_certificate(certificate: Path, key: Path | None) -> None:
    """End the process when certificate and private key cannot be read or do not belong together."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError:  # of which ssl.SSLError is one
        _leave(f"The certificate {certificate} and its key {key} cannot be used; both are PEM files that belong together.", EXIT_REFUSED)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, or the end of the process with a sentence that helps."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it, every answer waits 40 ms for a delayed ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            _leave(f"Port {port} on {host} is taken; stop what listens there, or choose another port.", EXIT_PORT_TAKEN)
        _leave(f"Cannot listen on {host}:{port}: {error.strerror}.", EXIT_PORT_TAKEN)
    return listener


def _leave(message: str, code: int) -> NoReturn:
    """End the process with a sentence on stderr."""
    sys.stderr.write(message + "\n")
    sys.exit(code)
