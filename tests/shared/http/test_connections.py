"""Connections that dawdle or speak no HTTP, on a real uvicorn whose patience is short where a test wants it so."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from shared.http.connections import HEAD_LIMIT_BYTES, TimedConnection

pytestmark = pytest.mark.server
PATIENCE_SECONDS = 60.0
SHORT_SECONDS = 0.3
LARGE_BYTES = 50_331_648


class Service:
    """Answers at once, at length, or without end, and notes when nobody takes that any more."""

    def __init__(self) -> None:
        self.reading = threading.Event()
        self.given_up = threading.Event()

    async def hello(self, request: Request) -> Response:
        """An answer to a request that has come whole."""
        self.reading.set()
        await request.body()
        return PlainTextResponse("hello")

    async def hasty(self, _request: Request) -> Response:
        """An answer that waits for nothing."""
        return PlainTextResponse("hello")

    async def large(self, _request: Request) -> Response:
        """An answer that is written at once and taken piece by piece."""
        return Response(bytes(LARGE_BYTES))

    async def stream(self, _request: Request) -> Response:
        async def chunks() -> Any:
            try:
                while True:
                    yield b"x" * 65536
                    await asyncio.sleep(0)  # so that the end of the connection is noticed
            finally:
                self.given_up.set()

        return StreamingResponse(chunks())


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def patience() -> type[TimedConnection]:
    """What connections are made of; a test shortens what it waits for."""

    class Patience(TimedConnection):
        head_seconds = PATIENCE_SECONDS
        taking_seconds = PATIENCE_SECONDS

    return Patience


@pytest.fixture
def server(service: Service, patience: type[TimedConnection], free_port: int) -> Iterator[uvicorn.Server]:
    routes = [
        Route("/hello", service.hello, methods=["GET", "POST"]),
        Route("/hasty", service.hasty, methods=["GET", "DELETE"]),
        Route("/large", service.large),
        Route("/stream", service.stream),
    ]
    config = uvicorn.Config(
        Starlette(routes=routes),
        port=free_port,
        log_config=None,
        lifespan="off",
        http=patience,
        h11_max_incomplete_event_size=HEAD_LIMIT_BYTES,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started)
    yield server
    server.should_exit = server.force_exit = True
    thread.join()


@pytest.fixture
def port(server: uvicorn.Server) -> int:
    return int(server.config.port)


def wait_for(condition: Callable[[], object]) -> None:
    """Return once it holds; fail where it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection:
        yield connection


def read_to_the_end(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    received = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


def problem_in(received: bytes) -> dict[str, Any]:
    """The problem in an answer, whose head announces it."""
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    assert b"connection: close" in head.lower()
    problem: dict[str, Any] = json.loads(body)
    assert head.startswith(f"HTTP/1.1 {problem['status']} ".encode())
    return problem


@pytest.mark.parametrize("begun", [b"", b"GET /hello HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_head_that_does_not_come_is_answered_408_and_closed(port: int, patience: type[TimedConnection], begun: bytes) -> None:
    patience.head_seconds = SHORT_SECONDS
    with connected(port) as connection:
        connection.sendall(begun)
        problem = problem_in(read_to_the_end(connection))
    assert (problem["type"], problem["status"]) == ("urn:lethe:problem:request-timeout", 408)


def test_head_that_drips_is_answered_408_all_the_same(port: int, patience: type[TimedConnection]) -> None:
    patience.head_seconds = SHORT_SECONDS
    stop = threading.Event()
    with connected(port) as connection:

        def drip() -> None:
            with suppress(OSError):
                connection.sendall(b"GET /hello HTTP/1.1\r\nX-Slow: ")
                while not stop.wait(0.05):
                    connection.sendall(b"a")

        dripping = threading.Thread(target=drip)
        dripping.start()
        received = read_to_the_end(connection)
        stop.set()
        dripping.join()
    assert received == b"" or problem_in(received)["status"] == 408


def test_second_head_of_a_connection_is_timed_too(port: int, patience: type[TimedConnection]) -> None:
    with connected(port) as connection:
        connection.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        patience.head_seconds = SHORT_SECONDS
        connection.sendall(b"GET /hel")
        received = read_to_the_end(connection)
    assert b" 408 " in received


def test_request_whose_head_has_come_is_not_timed_by_it(port: int, server: uvicorn.Server, service: Service) -> None:
    """What is slow then is the body, which the app waits for as long as it likes."""
    with connected(port) as connection:
        connection.sendall(b"POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n")
        assert service.reading.wait(PATIENCE_SECONDS)
        (served,) = server.server_state.connections
        assert isinstance(served, TimedConnection)
        assert served._head_timer is None
        connection.sendall(b"{}")
        assert read_to_the_end(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_body_that_drips_after_its_answer_ends_the_connection(
    port: int, server: uvicorn.Server, patience: type[TimedConnection], method: str
) -> None:
    with connected(port) as connection:
        wait_for(lambda: server.server_state.connections)
        patience.head_seconds = SHORT_SECONDS
        connection.sendall(f"{method} /hasty HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")

        def drip() -> bool:
            """Send a little more; whether that was refused."""
            try:
                connection.sendall(b"1\r\nx\r\n")
            except ConnectionError:
                return True
            return False

        wait_for(drip)


def test_body_that_ends_after_its_answer_leaves_the_connection_open(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(b"GET /hasty HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"{}GET /hasty HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"HTTP/1.1 200" in read_to_the_end(connection)


def test_body_of_a_request_that_came_with_the_one_before_is_waited_for(
    port: int, server: uvicorn.Server, patience: type[TimedConnection], service: Service
) -> None:
    with connected(port) as connection:
        wait_for(lambda: server.server_state.connections)
        patience.head_seconds = SHORT_SECONDS
        first, second = b"GET /hasty HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
        connection.sendall(first + second + b"Connection: close\r\n\r\n")
        assert service.reading.wait(PATIENCE_SECONDS)
        time.sleep(2 * SHORT_SECONDS)
        connection.sendall(b"{}")
        assert read_to_the_end(connection).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\nX-Bad: a\0b\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\nX-Bad: a\rb\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\nBad Name: a\r\n\r\n",
        b"GET /hel\0lo HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /h\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: -2\r\n\r\n{}",
        b"POST /hello HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_is_answered_400_without_being_quoted(port: int, request_bytes: bytes) -> None:
    with connected(port) as connection:
        connection.sendall(request_bytes)
        received = read_to_the_end(connection)
    assert problem_in(received)["type"] == "urn:lethe:problem:malformed-request"
    assert (b"nonsense" in received, b"X-Bad" in received, b"Bad Name" in received) == (False, False, False)


def test_head_over_its_limit_is_answered_431(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * (HEAD_LIMIT_BYTES + 1))
        received = read_to_the_end(connection)
    assert received == b"" or problem_in(received)["type"] == "urn:lethe:problem:headers-too-large"


def test_caller_that_takes_nothing_of_its_answer_is_let_go(port: int, patience: type[TimedConnection], service: Service) -> None:
    patience.taking_seconds = SHORT_SECONDS
    with connected(port) as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        assert service.given_up.wait(PATIENCE_SECONDS)


def test_caller_that_takes_a_stream_is_served(port: int, service: Service) -> None:
    with connected(port) as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(200):
            assert connection.recv(1_048_576)
        assert not service.given_up.is_set()


def test_caller_that_takes_its_answer_slowly_gets_all_of_it(port: int, patience: type[TimedConnection]) -> None:
    patience.taking_seconds = 2.0  # of which 12 pauses of a quarter take more; each piece is more than any buffer on the way holds back
    received = 0
    with connected(port) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        for piece in range(1, 13):
            while received < piece * LARGE_BYTES // 12:
                chunk = connection.recv(1_048_576)
                assert chunk, received
                received += len(chunk)
            time.sleep(0.25)
        received += len(read_to_the_end(connection))
    assert received > LARGE_BYTES  # its head too
