"""Work for a caller who goes away, over a real connection: uvicorn tells of a closed socket, httpx's transport does not."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from shared.errors import JobCancelledError
from shared.http.disconnects import while_connected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request
    from starlette.responses import Response


class Worker:
    """A service whose one route waits to be told to finish."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.release = asyncio.Event()
        self.ended: list[str] = []
        self.known = threading.Event()

    async def work(self) -> str:
        """What is done for the caller."""
        self.begun.set()
        try:
            await asyncio.wait_for(self.release.wait(), 30)
        except asyncio.CancelledError:
            self._end("cancelled")
            raise
        self._end("done")
        return "drawn"

    async def answer(self, request: Request) -> Response:
        """The route."""
        await request.body()
        try:
            return PlainTextResponse(await while_connected(request, self.work()))
        except JobCancelledError:
            return PlainTextResponse("nobody reads this", status_code=409)

    def _end(self, how: str) -> None:
        self.ended.append(how)
        self.known.set()


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def url(worker: Worker, free_port: int) -> Iterator[str]:
    app = Starlette(routes=[Route("/work", worker.answer, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=free_port, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    yield f"http://127.0.0.1:{free_port}"
    server.should_exit = True
    thread.join()


def test_caller_that_waits_gets_the_result(worker: Worker, url: str) -> None:
    worker.release.set()
    response = httpx.post(f"{url}/work", json={}, timeout=30)
    assert (response.status_code, response.text, worker.ended) == (200, "drawn", ["done"])


def test_caller_that_goes_away_cancels_its_work(worker: Worker, url: str) -> None:
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=30) as caller:
        caller.sendall(b"POST /work HTTP/1.1\r\nHost: lethe\r\nContent-Length: 2\r\n\r\n{}")
        assert worker.begun.wait(30)
    assert worker.known.wait(30)
    assert worker.ended == ["cancelled"]


def test_error_of_the_work_reaches_the_route(worker: Worker) -> None:
    async def fail() -> str:
        raise LookupError("no such thing")

    class Waiting:
        async def receive(self) -> dict[str, str]:
            await asyncio.sleep(60)
            return {"type": "http.disconnect"}

    with pytest.raises(LookupError, match="no such thing"):
        asyncio.run(while_connected(Waiting(), fail()))  # type: ignore[arg-type]
    assert worker.ended == []
