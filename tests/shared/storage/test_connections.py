"""Connections to servers that read slowly, not at all, break off, or speak TLS."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import pytest
import urllib3
from urllib3.connection import HTTPConnection

from shared.storage.connections import CONNECT_SECONDS, open_pool
from shared.storage.silence import is_silence
from tests.fixtures.certificates import Certificate

ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndata"
BODY: Final = bytes(16 * 1024**2)  # more than the kernels of both sides hold back
READ_SECONDS: Final = 2.0

Manners = Callable[[socket.socket, int], None]


@contextmanager
def serving(behave: Manners, trust: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[int]]]:
    """A server that treats connection after connection as told, with the connection's number; its address, and the numbers so far."""
    numbers: list[int] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                numbers.append(len(numbers))
                with suppress(OSError), connection if trust is None else trust.wrap_socket(connection, server_side=True) as opened:
                    behave(opened, numbers[-1])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    scheme = "http" if trust is None else "https"
    try:
        yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/", numbers
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def read_head(connection: socket.socket) -> int:
    """How many bytes of the body came with it."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(64 * 1024)
    return len(received.partition(b"\r\n\r\n")[2])


@contextmanager
def pool(trust: ssl.SSLContext | None = None) -> Iterator[urllib3.PoolManager]:
    opened = open_pool(trust or ssl.create_default_context(), read_seconds=READ_SECONDS)
    yield opened
    opened.clear()


def test_slow_reader_is_waited_for_longer_than_a_silent_one() -> None:
    def read_slowly(connection: socket.socket, _number: int) -> None:
        left = len(BODY) - read_head(connection)
        while left:
            time.sleep(0.03)
            left -= len(connection.recv(min(left, 128 * 1024)))
        connection.sendall(ANSWER)

    started = time.monotonic()
    with serving(read_slowly) as (url, numbers), pool() as opened:
        assert opened.request("PUT", url, body=BODY).data == b"data"
    assert time.monotonic() - started > READ_SECONDS  # or the test would show nothing
    assert numbers == [0]


@pytest.mark.parametrize("body", [b"", BODY])
def test_silent_server_is_told_as_such_and_not_waited_for_again(body: bytes) -> None:
    over = threading.Event()
    with serving(lambda _connection, _number: bool(over.wait(60))) as (url, numbers), pool() as opened:  # type: ignore[arg-type]
        try:
            with pytest.raises(urllib3.exceptions.HTTPError) as caught:
                opened.request("PUT", url, body=body)
            assert is_silence(caught.value)
            assert numbers == [0]
        finally:
            over.set()


def test_connection_that_breaks_off_is_made_again() -> None:
    def break_off_once(connection: socket.socket, number: int) -> None:
        read_head(connection)
        if number:
            connection.sendall(ANSWER)

    with serving(break_off_once) as (url, numbers), pool() as opened:
        assert opened.request("PUT", url, body=b"data").data == b"data"
    assert numbers == [0, 1]


def test_connections_are_opened_soon_or_not_at_all_kept_alive_and_then_given_the_longer_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float | None] = []
    connect = socket.socket.connect

    def watched(one: socket.socket, address: tuple[str, int]) -> None:
        given.append(one.gettimeout())
        connect(one, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    with serving(lambda connection, _number: bool(connection.recv(1))) as (url, _), pool() as opened:  # type: ignore[arg-type]
        connection = opened.connection_from_url(url)._get_conn()
        assert isinstance(connection, HTTPConnection)
        connection.timeout = READ_SECONDS
        connection.connect()
        assert given == [CONNECT_SECONDS]
        assert connection.sock.gettimeout() == READ_SECONDS
        assert connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        connection.close()


def test_server_that_is_slow_to_begin_tls_is_waited_for(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.storage.connections.CONNECT_SECONDS", 0.2)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate.chain, certificate.key)

    def begin_late(connection: socket.socket, _number: int) -> None:
        time.sleep(READ_SECONDS / 2)
        with server.wrap_socket(connection, server_side=True) as opened:
            read_head(opened)
            opened.sendall(ANSWER)

    with serving(begin_late) as (url, numbers), pool(ssl.create_default_context(cafile=str(certificate.chain))) as opened:
        assert opened.request("GET", url.replace("http:", "https:")).data == b"data"
    assert numbers == [0]


def test_large_body_goes_through_tls(certificate: Certificate) -> None:
    def read_all(connection: socket.socket, _number: int) -> None:
        left = len(BODY) - read_head(connection)
        while left:
            left -= len(connection.recv(min(left, 1024**2)))
        connection.sendall(ANSWER)

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate.chain, certificate.key)
    with serving(read_all, server) as (url, _), pool(ssl.create_default_context(cafile=str(certificate.chain))) as opened:
        assert opened.request("PUT", url, body=BODY).data == b"data"
