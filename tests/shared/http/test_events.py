"""Server-sent events: as text from the generator, and over a real uvicorn."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.errors import UnavailableError
from shared.http.events import job_events
from shared.http.operations import envelope
from shared.http.state import Draining
from shared.jobs.records import Job, JobStore

Event = tuple[int, str, dict[str, Any]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    opened = JobStore(f"sqlite:///{tmp_path / 'lethe.db'}")
    opened.prepare()
    yield opened
    opened.close()


def stream(store: JobStore, *, after: int = 0, draining: Draining | None = None) -> AsyncIterator[str]:
    return job_events(store=store, job_id="job_1", after=after, draining=draining or Draining(), describe=envelope, heartbeat_seconds=0.3)


def settle(store: JobStore) -> None:
    """A job with five events."""
    store.create(job_id="job_1", kind="steps", spec={})
    store.claim(kinds=["steps"], owner="test")
    for step in (1, 2):
        store.report(job_id="job_1", attempt=1, step=step, total=2, message="", reported={})
    store.succeed(job_id="job_1", attempt=1, result={"model": "mdl_1"})


def parse(frame: str) -> Event:
    number, name, data = frame.strip().split("\n")
    return int(number.removeprefix("id: ")), name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@pytest.mark.anyio
async def test_events_come_in_order_and_end_with_the_envelope(store: JobStore) -> None:
    settle(store)
    events = [parse(frame) async for frame in stream(store)]
    assert [(number, name) for number, name, _ in events] == [(1, "state"), (2, "state"), (3, "progress"), (4, "progress"), (5, "end")]
    assert events[3][2]["progress"]["step"] == 2
    assert events[4][2] == envelope(store.get("job_1"))


@pytest.mark.anyio
async def test_resume_sends_only_what_follows(store: JobStore) -> None:
    settle(store)
    assert [parse(frame)[0] async for frame in stream(store, after=3)] == [4, 5]


@pytest.mark.anyio
async def test_stream_outlives_a_database_that_is_away_for_a_moment(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(store)
    answers = iter([UnavailableError("away"), store.get("job_1")])

    def get(_job_id: str) -> Job:
        answer = next(answers)
        if isinstance(answer, UnavailableError):
            raise answer
        return answer

    monkeypatch.setattr(store, "get", get)
    assert [parse(frame)[0] async for frame in stream(store)] == [1, 2, 3, 4, 5]


@pytest.mark.anyio
async def test_silence_is_broken_by_a_comment_and_draining_ends_the_stream(store: JobStore) -> None:
    store.create(job_id="job_1", kind="steps", spec={})
    draining = Draining()
    frames = []
    async for frame in stream(store, draining=draining):
        frames.append(frame)
        draining.begun = frame.startswith(":")
    assert frames[1:] == [": heartbeat\n\n"]
    assert parse(frames[0])[1] == "state"


@pytest.mark.anyio
async def test_stream_of_a_job_that_goes_on_ends_after_a_while(store: JobStore) -> None:
    store.create(job_id="job_1", kind="steps", spec={})
    short = job_events(store=store, job_id="job_1", after=1, draining=Draining(), describe=envelope, stream_seconds=0.1)
    async with asyncio.timeout(60):
        assert [frame async for frame in short] == []


def read_events(response: httpx.Response) -> Iterator[Event]:
    """The events of a response, comments left out."""
    lines: list[str] = []
    for line in response.iter_lines():
        if line:
            lines.append(line)
        elif lines:
            if not lines[0].startswith(":"):
                yield parse("\n".join(lines))
            lines = []


@pytest.mark.server
def test_live_job_streams_progress_and_resumes_after_a_disconnect(server: Any) -> None:
    created = server.client.post("/v1/things", json={"prompt": "canary-prompt-77", "steps": 100})
    path = f"{created.headers['location']}/events"
    seen: list[Event] = []
    with server.client.stream("GET", path) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        for event in read_events(response):
            seen.append(event)
            if event[1] == "progress":
                break
    last = seen[-1][0]
    with server.client.stream("GET", path, headers={"Last-Event-ID": str(last)}) as response:
        rest = list(read_events(response))
    numbers = [number for number, _, _ in [*seen, *rest]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert rest[-1][1] == "end"
    assert (rest[-1][2]["state"], rest[-1][2]["result"]) == ("succeeded", {"steps": 100})
    progress = [data["progress"]["step"] for _, name, data in [*seen, *rest] if name == "progress"]
    assert progress == sorted(progress)
    assert progress[-1] == 100
    after_end = server.client.get(path, headers={"Last-Event-ID": str(numbers[-1])})
    assert after_end.status_code == 204
    assert "canary-prompt-77" not in server.logs() + json.dumps([data for _, _, data in [*seen, *rest]])


@pytest.mark.server
@pytest.mark.parametrize("value", ["x", "-1", "1" * 30, "²"])
def test_unreadable_last_event_id_is_malformed(server: Any, value: str) -> None:
    location = server.client.post("/v1/things", json={"prompt": "p", "steps": 1}).headers["location"]
    response = server.client.get(f"{location}/events", headers=[(b"Last-Event-ID", value.encode("latin-1"))])
    assert (response.status_code, response.json()["type"]) == (400, "urn:lethe:problem:malformed-request")


@pytest.mark.server
def test_stream_of_a_caller_that_left_ends_on_the_server(server: Any) -> None:
    location = server.client.post("/v1/things", json={"prompt": "p", "steps": 2000}).headers["location"]
    with server.client.stream("GET", f"{location}/events") as response:
        assert next(read_events(response))[1] == "state"
    wait_for(lambda: 'route="/v1/things/{id}/events"' in server.client.get("/metrics").text)
    assert server.client.post(f"{location}/cancel").status_code == 200
    wait_for(lambda: server.client.get(location).json()["state"] == "cancelled")


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
