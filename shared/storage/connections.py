"""Connections to an S3 server: a slow line is waited for, a silent server once, a refused or broken connection is tried again."""

from __future__ import annotations

import socket
import ssl
from types import TracebackType
from typing import Any, Final, Self

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import ConnectionPool

from shared.storage.silence import is_silence

# Within one site a connection takes milliseconds.
CONNECT_SECONDS: Final = 3.0
# A gateway that is silent for longer will not answer in time for whoever asks a service; jobs ask again.
READ_SECONDS: Final = 30.0
# Three parts of one upload travel at once; this leaves room for several uploads and reads beside each other.
POOL_SIZE: Final = 16
# How much must go out within the time for silence: at 30 s, lines down to 18 kbit/s are slow, not silent.
PIECE_BYTES: Final = 64 * 1024
# Firewalls forget idle connections without a word; asking this often keeps them open, or shows that they are not.
KEEP_ALIVE_SECONDS: Final = 60
_KEEP_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    # Not every system has them.
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), seconds)
        for name, seconds in (("TCP_KEEPIDLE", KEEP_ALIVE_SECONDS), ("TCP_KEEPINTVL", KEEP_ALIVE_SECONDS // 6))
        if hasattr(socket, name)
    ),
)


class _PlainConnection(HTTPConnection):
    """Opens within CONNECT_SECONDS, and gives each piece of a body the time for silence, where urllib3 bounds the whole of it by either."""

    def _new_conn(self) -> socket.socket:
        """Open the connection; what TLS says first has the time for silence too."""
        patience, self.timeout = self.timeout, CONNECT_SECONDS
        try:
            opened = super()._new_conn()
        finally:
            self.timeout = patience
        opened.settimeout(patience)
        return opened

    def send(self, data: Any) -> None:
        """Send a head or a body."""
        pieces = memoryview(data) if isinstance(data, bytes) else None
        if pieces is None or len(pieces) <= PIECE_BYTES:
            super().send(data)
            return
        for start in range(0, len(pieces), PIECE_BYTES):
            super().send(pieces[start : start + PIECE_BYTES])


class _EncryptedConnection(_PlainConnection, HTTPSConnection):
    """The same through TLS."""


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _EncryptedPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _EncryptedConnection


class _Retries(urllib3.Retry):
    """Repeats what was refused, broken off, or answered by a server that is too busy; silence is told at once."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: urllib3.BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Self:
        """The retries that are left, or the error that ends them."""
        if error is not None and is_silence(error):
            raise error
        return super().increment(method, url, response, error, _pool, _stacktrace)


def open_pool(trust: ssl.SSLContext, *, read_seconds: float = READ_SECONDS) -> urllib3.PoolManager:
    """Connections to an S3 server that end its silence in time."""
    pool = urllib3.PoolManager(
        maxsize=POOL_SIZE,
        timeout=urllib3.Timeout(connect=read_seconds, read=read_seconds),
        retries=_Retries(total=3, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504)),
        socket_options=[*HTTPConnection.default_socket_options, *_KEEP_ALIVE],
        ssl_context=trust,
    )
    pool.pool_classes_by_scheme = {"http": _PlainPool, "https": _EncryptedPool}
    return pool
