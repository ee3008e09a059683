"""Connections that dawdle or speak no HTTP, on a real uvicorn whose patience is short."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
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


class Impatient(TimedConnection):
    """The same, with less patience."""

    head_seconds = 0.3
    taking_seconds = 3.0


class Endless:
    """A service whose one answer never ends, and which notes when nobody takes it any more."""

    def __init__(self) -> None:
        self.given_up = threading.Event()

    async def hello(self, request: Request) -> Response:
        await request.body()
        return PlainTextResponse("hello")

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
def service() -> Endless:
    return Endless()


@pytest.fixture
def port(service: Endless, free_port: int) -> Iterator[int]:
    app = Starlette(routes=[Route("/hello", service.hello, methods=["GET", "POST"]), Route("/stream", service.stream)])
    config = uvicorn.Config(
        app, port=free_port, log_config=None, lifespan="off", http=Impatient, h11_max_incomplete_event_size=HEAD_LIMIT_BYTES
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    yield free_port
    server.should_exit = server.force_exit = True
    thread.join()


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
def test_head_that_does_not_come_is_answered_408_and_closed(port: int, begun: bytes) -> None:
    with connected(port) as connection:
        connection.sendall(begun)
        problem = problem_in(read_to_the_end(connection))
    assert (problem["type"], problem["status"]) == ("urn:lethe:problem:request-timeout", 408)


def test_head_that_drips_is_answered_408_all_the_same(port: int) -> None:
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


def test_second_head_of_a_connection_is_timed_too(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /hel")
        received = read_to_the_end(connection)
    assert b" 408 " in received


def test_request_that_takes_its_route_long_is_not_timed_by_its_head(port: int) -> None:
    """The head is there; what is slow is the body, which the app waits for as long as it likes."""
    with connected(port) as connection:
        connection.sendall(b"POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n")
        threading.Event().wait(3 * Impatient.head_seconds)
        connection.sendall(b"{}")
        assert read_to_the_end(connection).startswith(b"HTTP/1.1 200")


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


def test_caller_that_takes_nothing_of_its_answer_is_let_go(port: int, service: Endless) -> None:
    with connected(port) as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        assert service.given_up.wait(PATIENCE_SECONDS)


def test_caller_that_takes_its_answer_slowly_is_served(port: int, service: Endless) -> None:
    with connected(port) as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(200):
            assert connection.recv(1_048_576)
        assert not service.given_up.is_set()
