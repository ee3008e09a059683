"""Callers side by side: each asks again as soon as it is answered, and a refusal ends the round."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from types import SimpleNamespace

import pytest

from benchmarks import callers
from benchmarks.callers import Round, ask_side_by_side, percentiles


class Service(ThreadingHTTPServer):
    """Answers what it is sent, with 503 to the request that it is told to refuse, and remembers from which connection it came.

    The first request of each connection is answered once there are as many as are to meet.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.refuse = -1
        self.seen: list[tuple[int, int]] = []
        self.meeting = threading.Barrier(1)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/things"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    met = False

    def do_POST(self) -> None:
        service = self.server
        assert isinstance(service, Service)
        content = self.rfile.read(int(self.headers["Content-Length"]))
        number = json.loads(content)["number"]
        service.seen.append((self.client_address[1], number))
        if not self.met:
            service.meeting.wait(30)
            self.met = True
        self.send_response(503 if number == service.refuse else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_args: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as opened:
        thread = threading.Thread(target=opened.serve_forever)
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


def test_callers_ask_on_connections_of_their_own_until_time_is_up(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.meeting = threading.Barrier(3)
    monkeypatch.setattr(callers, "time", SimpleNamespace(perf_counter=lambda: float(len(service.seen))))  # a second a request
    seen = ask_side_by_side(service.url, ({"number": number} for number in count()), callers=3, seconds=9)
    assert sorted(number for _, number in service.seen) == list(range(len(seen.latencies)))
    assert len({port for port, _ in service.seen}) == 3
    assert 9 <= seen.seconds == len(seen.latencies) <= 11  # nobody begins after the ninth second, and two may be under way
    assert seen.per_second == 1
    assert all(latency >= 1 for latency in seen.latencies)


def test_refusal_ends_the_round(service: Service) -> None:
    service.refuse = 2
    with pytest.raises(ExceptionGroup) as caught:
        ask_side_by_side(service.url, ({"number": number} for number in count()), callers=1, seconds=30)
    assert "503" in str(caught.value.exceptions[0])


def test_percentiles_are_the_middle_and_the_slow_end() -> None:
    assert percentiles([float(number) for number in range(101)]) == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "n": 101}
    assert Round([1.0, 2.0], 4.0).per_second == 0.5
