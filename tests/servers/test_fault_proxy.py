"""The proxy between clients and servers: transparent without faults, and each fault as it says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.servers.fault_proxy import FaultProxy


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    while data := connection.recv(4096):
                        connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_without_faults_bytes_come_through(echo_port: int) -> None:
    with FaultProxy(echo_port) as proxy, socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as client:
        client.sendall(b"films")
        assert client.recv(100) == b"films"


def test_frozen_way_is_silent_until_it_thaws(echo_port: int) -> None:
    with FaultProxy(echo_port) as proxy, socket.create_connection(("127.0.0.1", proxy.port), timeout=0.3) as client:
        proxy.freeze()
        client.sendall(b"films")
        with pytest.raises(TimeoutError):
            client.recv(100)
        proxy.thaw()
        client.settimeout(30)
        assert client.recv(100) == b"films"


def test_action_comes_once_after_so_many_bytes(echo_port: int) -> None:
    done: list[str] = []
    with FaultProxy(echo_port) as proxy, socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as client:
        proxy.once_after(3, lambda: done.append("acted"))
        for _ in range(2):
            client.sendall(b"films")
            assert client.recv(100) == b"films"
        assert done == ["acted"]
        proxy.cut()
        assert client.recv(100) == b""


def test_slow_way_delivers_everything(echo_port: int) -> None:
    with FaultProxy(echo_port) as proxy, socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as client:
        proxy.rate = 20_000
        client.sendall(b"x" * 4000)
        received = b""
        while len(received) < 4000:
            received += client.recv(4096)
        assert received == b"x" * 4000
