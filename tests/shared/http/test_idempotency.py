"""Answers given once: replayed, refused while the first runs, kept apart by caller and body, and worked to the end for who left."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel, field_serializer
from starlette.responses import Response

from shared.access import Caller, bound_caller
from shared.access.caller import EVERY_SCOPE
from shared.database import Database, prepare_schema
from shared.errors import ConflictError
from shared.http import idempotency
from shared.http.bodies import StrictBody
from shared.http.handlers import install_problem_handlers
from shared.http.idempotency import REPLAYED, answered_once
from shared.http.kept_answers import ANSWER_SCHEMA, Claim, KeptAnswers
from shared.http.recording import RequestRecord
from shared.settings import Settings

pytestmark = pytest.mark.anyio
CANARY = "a prompt that is nobody's business"


class Wish(StrictBody):
    """What is asked for."""

    prompt: str


class Drawing(BaseModel):
    """What is answered."""

    number: int
    echo: str

    @field_serializer("echo")
    def write_echo(self, echo: str) -> str:
        """The same, with a note of who writes it."""
        written_by.append(threading.current_thread())
        return echo


written_by: list[threading.Thread] = []


class Studio:
    """A service whose one route counts its work, and waits where a test wants it to."""

    def __init__(self, client: httpx.AsyncClient, app: FastAPI) -> None:
        self.client = client
        self.app = app
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.worked = 0
        self.failing = False
        self.caller = Caller("anonymous", "anonymous", EVERY_SCOPE)

    async def draw(self, wish: Wish) -> Drawing:
        """The work."""
        self.begun.set()
        await self.go_on.wait()
        self.worked += 1
        if self.failing:
            raise ConflictError("Not now.")
        return Drawing(number=self.worked, echo=wish.prompt)

    async def ask(self, prompt: str = CANARY, **headers: str) -> httpx.Response:
        """Send a request."""
        return await self.client.post("/v1/drawings", json={"prompt": prompt}, headers=headers)


@pytest.fixture
async def studio(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Studio]:
    del anyio_backend
    settings = Settings(home=tmp_path)
    app = FastAPI()
    app.state.settings = settings
    app.state.service = "studio"
    install_problem_handlers(app)
    with closing(Database.open(settings)) as database:
        prepare_schema(database.engine, ANSWER_SCHEMA)

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            with bound_caller(made.caller):
                await app({**scope, "state": {"database": database, "record": mock.Mock(spec=RequestRecord)}}, receive, send)

        transport = httpx.ASGITransport(app=with_state)
        async with httpx.AsyncClient(transport=transport, base_url="http://studio") as client:
            made = Studio(client, app)

            @app.post("/v1/drawings")
            async def draw(body: Wish, request: Request) -> Response:
                return await answered_once(request, body, lambda: made.draw(body))

            yield made


async def test_repeated_request_gets_the_first_answer_and_no_second_work(studio: Studio) -> None:
    first = await studio.ask(**{"Idempotency-Key": "k1"})
    again = await studio.ask(**{"Idempotency-Key": "k1"})
    assert first.json() == again.json() == {"number": 1, "echo": CANARY}
    assert (REPLAYED in first.headers, again.headers[REPLAYED]) == (False, "true")
    assert again.headers["cache-control"] == "no-store"
    assert studio.worked == 1


async def test_without_a_key_and_with_another_one_it_is_worked_anew(studio: Studio) -> None:
    numbers = [(await studio.ask(**headers)).json()["number"] for headers in ({}, {}, {"Idempotency-Key": "a"}, {"Idempotency-Key": "b"})]
    assert numbers == [1, 2, 3, 4]


async def test_other_body_under_the_same_key_is_refused(studio: Studio) -> None:
    await studio.ask(**{"Idempotency-Key": "k1"})
    refused = await studio.ask("another prompt", **{"Idempotency-Key": "k1"})
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:lethe:problem:idempotency-key-reused")


async def test_same_key_of_another_caller_is_another_key(studio: Studio) -> None:
    await studio.ask(**{"Idempotency-Key": "k1"})
    studio.caller = Caller("key_2", "key", EVERY_SCOPE)
    assert (await studio.ask(**{"Idempotency-Key": "k1"})).json()["number"] == 2
    studio.caller = Caller("key_2", "service", EVERY_SCOPE, on_behalf_of="somebody")
    assert (await studio.ask(**{"Idempotency-Key": "k1"})).json()["number"] == 3


async def test_same_key_at_another_service_on_the_database_is_another_key(studio: Studio) -> None:
    await studio.ask(**{"Idempotency-Key": "k1"})
    studio.app.state.service = "atelier"
    assert (await studio.ask(**{"Idempotency-Key": "k1"})).json()["number"] == 2


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k1"}])
async def test_answer_is_written_beside_the_event_loop(studio: Studio, headers: dict[str, str]) -> None:
    written_by.clear()
    assert (await studio.ask(**headers)).status_code == 200
    assert len(written_by) == 1
    assert threading.current_thread() not in written_by


async def test_claim_is_renewed_for_as_long_as_the_work_takes(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "LEASE", timedelta(seconds=0.03))
    renewed: list[Claim] = []
    renew = KeptAnswers.renew

    def noted(answers: KeptAnswers, claim: Claim) -> None:
        """Renew, and end the work after the third time."""
        renew(answers, claim)
        renewed.append(claim)
        if len(renewed) == 3:
            loop.call_soon_threadsafe(studio.go_on.set)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(KeptAnswers, "renew", noted)
    studio.go_on.clear()
    async with asyncio.timeout(60):
        assert (await studio.ask(**{"Idempotency-Key": "k1"})).json()["number"] == 1
    assert len(set(renewed)) == 1
    assert "idempotency-lease" not in {task.get_name() for task in asyncio.all_tasks() if not task.cancelling()}


async def test_repetition_while_the_first_runs_is_told_to_wait(studio: Studio) -> None:
    studio.go_on.clear()
    first = asyncio.create_task(studio.ask(**{"Idempotency-Key": "k1"}))
    await studio.begun.wait()
    early = await studio.ask(**{"Idempotency-Key": "k1"})
    assert (early.status_code, early.json()["type"]) == (409, "urn:lethe:problem:idempotency-in-flight")
    assert int(early.headers["retry-after"]) > 0
    studio.go_on.set()
    assert (await first).json() == (await studio.ask(**{"Idempotency-Key": "k1"})).json() == {"number": 1, "echo": CANARY}


async def test_error_frees_the_key(studio: Studio) -> None:
    studio.failing = True
    assert (await studio.ask(**{"Idempotency-Key": "k1"})).status_code == 409
    studio.failing = False
    assert (await studio.ask(**{"Idempotency-Key": "k1"})).json()["number"] == 2


async def test_request_that_is_cancelled_frees_the_key(studio: Studio) -> None:
    """As uvicorn does with what is left when its patience at shutdown is over."""
    studio.go_on.clear()
    first = asyncio.create_task(studio.ask(**{"Idempotency-Key": "k1"}))
    await studio.begun.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    studio.go_on.set()
    assert (await studio.ask(**{"Idempotency-Key": "k1"})).json()["number"] == 1


@pytest.mark.parametrize("key", ["", "a b", "a" * 256, "\x7f"])
async def test_key_that_is_none_is_refused(studio: Studio, key: str) -> None:
    refused = await studio.ask(**{"Idempotency-Key": key})
    assert (refused.status_code, refused.json()["type"]) == (400, "urn:lethe:problem:malformed-request")
    assert studio.worked == 0


async def test_fingerprint_of_a_prompt_cannot_be_made_without_the_installations_key(studio: Studio, tmp_path: Path) -> None:
    await studio.ask(**{"Idempotency-Key": "k1"})
    await studio.ask(**{"Idempotency-Key": "k2"})
    with closing(sqlite3.connect(tmp_path / "lethe.db")) as connection:
        before = connection.execute("SELECT DISTINCT fingerprint FROM kept_answers").fetchall()
    assert len(before) == 1
    (tmp_path / "idempotency.key").write_bytes(bytes(32))
    from shared.kept_keys import kept_key

    kept_key.cache_clear()
    await studio.ask(**{"Idempotency-Key": "k3"})
    with closing(sqlite3.connect(tmp_path / "lethe.db")) as connection:
        assert len(connection.execute("SELECT DISTINCT fingerprint FROM kept_answers").fetchall()) == 2
