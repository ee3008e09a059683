"""How a service is served: uvicorn on loopback, a clear word about a taken port, and a clean end."""

from __future__ import annotations

import errno
import ipaddress
import os
import signal
import socket
import sys
from types import FrameType
from typing import Final, NoReturn

import uvicorn
from fastapi import FastAPI

from shared.http.state import Draining, draining_of
from shared.jobs.executor import PARENT_VARIABLE
from shared.jobs.worker import die_with_parent

EXIT_PORT_TAKEN: Final = 69  # EX_UNAVAILABLE of sysexits.h
EXIT_REFUSED: Final = 78  # EX_CONFIG
# Requests under way get this long after SIGTERM; event streams end by themselves.
_DRAIN_SECONDS: Final = 10
_BACKLOG: Final = 256


def serve(app: FastAPI, *, host: str = "127.0.0.1", port: int, allow_remote: bool = False) -> None:
    """Serve until SIGTERM or Ctrl-C, then leave with code 0.

    An address other than loopback is refused unless `allow_remote` says that something in front authenticates callers.
    """
    if not (allow_remote or _is_loopback(host)):
        _leave(f"Refusing to listen on {host}: requests are not authenticated, only 127.0.0.1 is safe.", EXIT_REFUSED)
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
        proxy_headers=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    server = _DrainingServer(config, draining=draining_of(app))
    server.run(sockets=[listener])
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


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
