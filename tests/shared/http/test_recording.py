"""What requests leave in the audit log and are charged, and that nothing is released without."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import REGISTRY
from pydantic import BaseModel
from sqlalchemy import text

from shared import errors
from shared.access import NOBODY, quotas
from shared.access.key_records import KeyRecords
from shared.auditing import AuditEvent, AuditLog
from shared.catalog import new_id
from shared.database import Database
from shared.errors import UnavailableError
from shared.http.access import requires
from shared.http.app import create_app
from shared.http.bodies import StrictBody
from shared.http.idempotency import answered_once
from shared.http.recording import STRANGER_SECONDS, Strangers, record_of
from shared.settings import Settings
from tests.fixtures.apps import open_app
from tests.shared.http.fake_app import make_app

pytestmark = pytest.mark.anyio

MODEL = new_id("model")
PROMPT = "quokka with left pleural effusion"
Events = Callable[[], list[dict[str, Any]]]


class Draw(StrictBody):
    """What to draw, and how it goes wrong."""

    prompts: list[str]
    model: str = MODEL
    fail: str = ""


router = APIRouter()
released: list[str] = []


@router.post("/v1/draws", dependencies=[requires("generate", action="generate")])
async def draw(body: Draw, request: Request) -> dict[str, str]:
    """Draw, or fail."""
    record = record_of(request)
    record.about({"model": body.model}, prompts=body.prompts, images=2 * len(body.prompts))
    await record.charge_images(model_digest=body.model, token_ids=[list(prompt.encode()) for prompt in body.prompts], images_per_prompt=2)
    if body.fail:
        raise getattr(errors, body.fail, RuntimeError)("It failed.")
    return {"image": "the picture"}


class Image(BaseModel):
    """What is drawn."""

    image: str


@router.post("/v1/kept", dependencies=[requires("generate", action="generate")])
async def draw_once(body: Draw, request: Request) -> Response:
    """Draw, once for each key."""

    async def work() -> Image:
        await record_of(request).charge_images(model_digest=body.model, token_ids=[[1]], images_per_prompt=2)
        return Image(image="the picture")

    return await answered_once(request, body, work)


@router.put("/v1/stored/{how}", dependencies=[requires("generate", action="generate")])
async def store(how: str, request: Request) -> dict[str, str]:
    """Store something, while the caller leaves or the store is away."""
    record = record_of(request)
    await record.charge_images(model_digest=MODEL, token_ids=[[1]], images_per_prompt=2)

    def change() -> str:
        if how == "failing":
            raise UnavailableError("The store is away.")
        return how

    storing = asyncio.create_task(record.lasting(change))
    await asyncio.sleep(0)
    if how == "leaving":
        storing.cancel()
        raise errors.JobCancelledError("The caller went away.")
    return {"stored": await storing}


@router.get("/v1/films/{id}/{number}", dependencies=[requires("export", action="download")])
def film(id: str, number: int) -> StreamingResponse:  # noqa: A002
    """A film in two parts."""
    if number > 3:
        raise errors.NotFoundError("There is no such film.")
    return StreamingResponse(iter([f"film {number}", f" of {id}"]))


@router.put("/v1/switches/{name}", dependencies=[requires("admin", action="admin")])
def switch(name: str, request: Request) -> dict[str, str]:
    """Change something for good."""
    record_of(request).found({"switch": name})
    record_of(request).begin()
    released.append(name)
    if name == "torn":
        raise errors.ConflictError("It cannot be switched.")
    return {"switch": name}


@router.get("/v1/plain", dependencies=[requires("read")])
def plain() -> dict[str, str]:
    """Something that anybody may know."""
    return {"what": "plain"}


def recorded_app(settings: Settings) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_settings: Settings) -> AsyncIterator[str]:
        yield "state"

    return create_app(service="fake", settings=settings, routers=[router], lifespan=lifespan, state_type=str, ready=lambda _state: [])


@pytest.fixture
def limits() -> dict[str, Any]:
    """Settings that a test changes."""
    return {}


@pytest.fixture
def settings(tmp_path: Path, limits: dict[str, Any]) -> Settings:
    return Settings(home=tmp_path, **limits)


@pytest.fixture
async def client(settings: Settings, anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    del anyio_backend
    released.clear()
    async with open_app(recorded_app(settings)) as opened:
        yield opened


@pytest.fixture
def events(settings: Settings) -> Events:
    """Reads the log as it is now."""

    def read() -> list[dict[str, Any]]:
        log = AuditLog.open(settings)
        try:
            return [chained.as_json()["event"] for chained in log.read()]
        finally:
            log.close()

    return read


@pytest.fixture
def broken_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that cannot be written."""

    def refuse(_log: AuditLog, *_arguments: Any) -> None:
        raise UnavailableError("The database does not answer; try again later.")

    monkeypatch.setattr(AuditLog, "append", refuse)
    monkeypatch.setattr(AuditLog, "append_within", refuse)


async def test_answer_leaves_one_event_with_marks_in_place_of_prompts(client: httpx.AsyncClient, events: Events) -> None:
    headers = {"traceparent": f"00-{'a1' * 16}-{'b2' * 8}-01"}
    assert (await client.post("/v1/draws", json={"prompts": [PROMPT, PROMPT.upper()]}, headers=headers)).status_code == 200
    (event,) = events()
    marks = event.pop("prompts")
    del event["moment"]
    assert event == {
        "service": "fake",
        "action": "generate",
        "outcome": "done",
        "caller": "anonymous",
        "caller_kind": "anonymous",
        "on_behalf_of": None,
        "route": "POST /v1/draws",
        "status": 200,
        "resources": {"model": MODEL},
        "images": 4,
        "left_out": 0,
        "trace_id": "a1" * 16,
    }
    assert [mark["length"] for mark in marks] == [len(PROMPT)] * 2
    assert marks[0]["hmac"] != marks[1]["hmac"]


async def test_plain_reading_and_unknown_paths_leave_none(client: httpx.AsyncClient, events: Events) -> None:
    for path in ("/v1/plain", "/livez", "/readyz", "/metrics", "/v1/info", "/v1/nothing"):
        await client.get(path)
    assert events() == []


async def test_download_names_what_its_path_names_once_it_is_found(client: httpx.AsyncClient, events: Events) -> None:
    assert (await client.get("/v1/films/ds_1/3")).text == "film 3 of ds_1"
    assert (await client.get(f"/v1/films/{PROMPT}/4")).status_code == 404
    told = [(event["action"], event["outcome"], event["status"], event["resources"], event["route"]) for event in events()]
    assert told == [
        ("download", "done", 200, {"id": "ds_1", "number": "3"}, "GET /v1/films/{id}/{number}"),
        ("download", "refused", 404, {}, "GET /v1/films/{id}/{number}"),
    ]


@pytest.mark.parametrize(
    ("fail", "status", "outcome"),
    [("ConflictError", 409, "refused"), ("ForbiddenError", 403, "denied"), ("UnavailableError", 503, "failed"), ("x", 500, "failed")],
)
@pytest.mark.usefixtures("logged")
async def test_request_that_came_to_nothing_says_how(
    client: httpx.AsyncClient, events: Events, fail: str, status: int, outcome: str
) -> None:
    assert (await client.post("/v1/draws", json={"prompts": [PROMPT], "fail": fail})).status_code == status
    (event,) = events()
    assert (event["action"], event["outcome"], event["status"], event["caller"]) == ("generate", outcome, status, "anonymous")


async def test_field_of_an_id_that_holds_words_is_not_kept(client: httpx.AsyncClient, events: Events) -> None:
    await client.post("/v1/draws", json={"prompts": [], "model": PROMPT})
    await client.post("/v1/draws", json={"prompts": [], "model": "mdl_quokka"})
    assert [event["resources"] for event in events()] == [{}, {}]


async def test_change_is_told_before_it_is_made_and_again_only_when_it_fails(client: httpx.AsyncClient, events: Events) -> None:
    assert (await client.put("/v1/switches/on")).status_code == 200
    assert (await client.put("/v1/switches/torn")).status_code == 409
    assert [(event["outcome"], event["resources"], event["status"]) for event in events()] == [
        ("begun", {"switch": "on"}, None),
        ("begun", {"switch": "torn"}, None),
        ("refused", {"switch": "torn"}, 409),
    ]


@pytest.mark.usefixtures("broken_log", "logged")
async def test_nothing_is_released_or_changed_when_the_event_cannot_be_written(client: httpx.AsyncClient, events: Events) -> None:
    before = REGISTRY.get_sample_value("lethe_audit_write_failures_total") or 0
    for answer in (
        await client.post("/v1/draws", json={"prompts": [PROMPT]}),
        await client.get("/v1/films/ds_1/3"),
        await client.put("/v1/switches/on"),
    ):
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:lethe:problem:dependency-unavailable")
        assert "film 3 of" not in answer.text
        assert answer.headers["retry-after"] == "5"
    assert (await client.get("/v1/plain")).status_code == 200
    assert released == []
    assert REGISTRY.get_sample_value("lethe_audit_write_failures_total") == before + 4  # the switch's failure is tried to be told too
    assert events() == []


class TestWithAuthentication:
    @pytest.fixture
    def limits(self) -> dict[str, Any]:
        return {"auth": "on"}

    async def test_denials_leave_an_event_each_also_of_plain_reading(
        self, client: httpx.AsyncClient, events: Events, settings: Settings
    ) -> None:
        database = Database.open(settings)
        reader = KeyRecords.of(settings, database).create(name="reader", scopes=["read"], lifetime=None)
        database.close()
        headers = {"Authorization": f"Bearer {reader.text}"}
        assert (await client.get("/v1/plain")).status_code == 401
        assert (await client.get("/v1/plain", headers=headers)).status_code == 200
        assert (await client.post("/v1/draws", json={"prompts": [PROMPT]}, headers=headers)).status_code == 403
        assert (await client.request("QUOKKA", "/v1/quokka")).status_code == 401
        assert (await client.get("/v1/plain")).status_code == 401  # too soon after the first for an event of its own
        told = [(event["action"], event["outcome"], event["status"], event["caller"], event["route"]) for event in events()]
        assert told == [
            ("read", "denied", 401, "nobody", "GET /v1/plain"),
            ("generate", "denied", 403, reader.id, "POST /v1/draws"),
            ("read", "denied", 401, "nobody", "unmatched"),
        ]
        assert "quokka" not in str(events()).lower()

    async def test_denial_of_metrics_has_a_name(self, client: httpx.AsyncClient, events: Events, settings: Settings) -> None:
        with closing(Database.open(settings)) as database:
            reader = KeyRecords.of(settings, database).create(name="reader", scopes=["read"], lifetime=None)
        for _ in range(2):
            assert (await client.get("/metrics", headers={"Authorization": f"Bearer {reader.text}"})).status_code == 403
        assert [(event["outcome"], event["status"], event["caller"]) for event in events()] == [("denied", 403, reader.id)] * 2

    @pytest.mark.parametrize("path", ["/metrics", "/v1/plain"])
    async def test_key_that_ended_is_denied_by_its_name_once_in_a_while(
        self, client: httpx.AsyncClient, events: Events, settings: Settings, path: str
    ) -> None:
        with closing(Database.open(settings)) as database:
            records = KeyRecords.of(settings, database)
            ended = [records.create(name=name, scopes=["metrics:read"], lifetime=None) for name in ("scraper", "other")]
            for key in ended:
                records.revoke(key.id)
        for key in [*ended, *ended]:
            assert (await client.get(path, headers={"Authorization": f"Bearer {key.text}"})).status_code == 401
        assert [(event["outcome"], event["status"], event["caller"]) for event in events()] == [("denied", 401, key.id) for key in ended]


class TestWithProviderAway:
    @pytest.fixture
    def limits(self, free_tcp_port: int) -> dict[str, Any]:
        place = f"https://127.0.0.1:{free_tcp_port}"
        return {"auth": "on", "oidc_issuer": place, "oidc_audience": "lethe", "oidc_jwks_url": f"{place}/keys"}

    @pytest.mark.usefixtures("logged")
    async def test_tokens_that_nobody_can_verify_leave_one_event_in_a_while(self, client: httpx.AsyncClient, events: Events) -> None:
        token = jwt.encode({"sub": "quokka"}, generate_private_key(SECP256R1()), algorithm="ES256", headers={"kid": "made-up"})
        headers = {"Authorization": f"Bearer {token}"}
        answers = [await client.post("/v1/draws", json={"prompts": []}, headers=headers) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [503] * 3
        assert [(event["outcome"], event["status"], event["caller"]) for event in events()] == [("failed", 503, "nobody")]


@pytest.fixture
def one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands, so that no window ends while the test runs."""
    monkeypatch.setattr(quotas, "_now", lambda: datetime(2026, 11, 1, 12, 0, 40, tzinfo=UTC))


def test_event_of_strangers_tells_how_many_were_left_out() -> None:
    now = 0.0
    strangers = Strangers(now=lambda: now)
    assert [strangers.left_out("GET /v1/plain", 401, NOBODY) for _ in range(4)] == [0, None, None, None]
    assert strangers.left_out("unmatched", 401, NOBODY) == 0
    assert strangers.left_out("GET /v1/plain", 401, replace(NOBODY, id="key_ended")) == 0
    now += STRANGER_SECONDS
    assert [strangers.left_out("GET /v1/plain", 401, NOBODY) for _ in range(2)] == [3, None]


@pytest.mark.usefixtures("logged", "one_window")
class TestWithQuotas:
    @pytest.fixture
    def limits(self) -> dict[str, Any]:
        return {"quota_images_per_day": 4, "quota_images_per_prompt_per_day": 2}

    async def test_images_beyond_the_quota_are_refused_and_told(self, client: httpx.AsyncClient, events: Events) -> None:
        rejected = {"reason": "quota"}
        before = REGISTRY.get_sample_value("lethe_requests_rejected_total", rejected) or 0
        assert (await client.post("/v1/draws", json={"prompts": ["a"]})).status_code == 200
        refused = await client.post("/v1/draws", json={"prompts": ["a"]})
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:lethe:problem:rate-limited")
        assert refused.headers["retry-after"] == str(12 * 3600 - 40)
        assert (await client.post("/v1/draws", json={"prompts": ["b"]})).status_code == 200
        assert (await client.post("/v1/draws", json={"prompts": ["c"]})).status_code == 429
        never = await client.post("/v1/draws", json={"prompts": ["a", "b", "c"]})
        assert (never.status_code, never.json()["type"]) == (403, "urn:lethe:problem:limit-exceeded")
        assert [event["outcome"] for event in events()] == ["done", "denied", "done", "denied", "denied"]
        assert REGISTRY.get_sample_value("lethe_requests_rejected_total", rejected) == before + 2

    @pytest.mark.parametrize("fail", ["ConflictError", "UnavailableError", "a defect"])
    async def test_images_are_given_back_when_none_is_released(self, client: httpx.AsyncClient, fail: str) -> None:
        for _ in range(3):
            assert (await client.post("/v1/draws", json={"prompts": ["a", "b"], "fail": fail})).status_code >= 409
        assert (await client.post("/v1/draws", json={"prompts": ["a", "b"]})).status_code == 200

    async def test_images_are_given_back_when_their_event_cannot_be_written(
        self, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:

            def refuse(_log: AuditLog, _events: Sequence[AuditEvent]) -> None:
                raise UnavailableError("The database does not answer; try again later.")

            patch.setattr(AuditLog, "append", refuse)
            assert (await client.post("/v1/draws", json={"prompts": ["a", "b"]})).status_code == 503
        assert (await client.post("/v1/draws", json={"prompts": ["a", "b"]})).status_code == 200


@pytest.mark.usefixtures("one_window")
class TestWithRequestQuota:
    @pytest.fixture
    def limits(self) -> dict[str, Any]:
        return {"quota_requests_per_minute": 3}

    async def test_requests_beyond_the_quota_are_refused_and_told(self, client: httpx.AsyncClient, events: Events) -> None:
        answers = [await client.get("/v1/plain") for _ in range(12)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 9
        assert refused[0].json()["type"] == "urn:lethe:problem:rate-limited"
        assert refused[0].headers["retry-after"] == "20"
        assert [(event["action"], event["outcome"]) for event in events()] == [("read", "denied")] * len(refused)
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/metrics")).status_code == 200


class TestWithDailyQuota:
    @pytest.fixture
    def limits(self) -> dict[str, Any]:
        return {"quota_images_per_day": 2}

    async def test_request_that_is_cancelled_gets_its_charge_back_and_leaves_an_event(
        self, client: httpx.AsyncClient, events: Events, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        charging, charge = threading.Event(), threading.Event()
        charge_images = quotas.Quotas.charge_images

        def charge_slowly(*arguments: Any, **named: Any) -> Any:
            charging.set()
            assert charge.wait(60)
            return charge_images(*arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(quotas.Quotas, "charge_images", charge_slowly)
            request = asyncio.create_task(client.post("/v1/draws", json={"prompts": ["a"]}))
            assert await asyncio.to_thread(charging.wait, 60)
            request.cancel()
            charge.set()
            await asyncio.wait([request])
        for _ in range(600):  # what was shielded ends by itself
            if (answer := await client.post("/v1/draws", json={"prompts": ["a"]})).status_code == 200:
                break
            await asyncio.sleep(0.1)
        assert answer.status_code == 200
        assert next((event["outcome"], event["status"]) for event in events()) == ("failed", 503)

    async def test_request_that_is_cancelled_while_its_event_is_written_gets_its_charge_back(
        self, client: httpx.AsyncClient, events: Events, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            writing, write = held_writing(patch)
            request = asyncio.create_task(client.post("/v1/draws", json={"prompts": ["a"]}))
            assert await asyncio.to_thread(writing.wait, 60)
            request.cancel()
            await asyncio.sleep(0)
            write.set()
            await asyncio.wait([request])
        for _ in range(600):  # what was shielded ends by itself
            if (answer := await client.post("/v1/draws", json={"prompts": ["a"]})).status_code == 200:
                break
            await asyncio.sleep(0.1)
        assert answer.status_code == 200
        assert [(event["outcome"], event["status"]) for event in events()][:2] == [("done", 200), ("failed", 503)]

    async def test_lasting_change_keeps_its_charge_though_the_caller_leaves(self, settings: Settings, events: Events) -> None:
        async with open_app(recorded_app(settings)) as client:
            first = await client.put("/v1/stored/leaving")
            assert first.status_code == 409
            assert (await client.put("/v1/stored/failing")).status_code == 429
        assert [event["outcome"] for event in events()] == ["begun", "denied"]

    async def test_lasting_change_that_fails_gives_its_charge_back(self, settings: Settings, events: Events) -> None:
        async with open_app(recorded_app(settings)) as client:
            for _ in range(2):
                assert (await client.put("/v1/stored/failing")).status_code == 503
        assert [event["outcome"] for event in events()] == ["begun", "failed"] * 2

    async def test_answer_that_was_kept_stays_charged_though_its_event_cannot_be_written(
        self, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:

            def refuse(_log: AuditLog, _events: Sequence[AuditEvent]) -> None:
                raise UnavailableError("The database does not answer; try again later.")

            patch.setattr(AuditLog, "append", refuse)
            assert (await client.post("/v1/kept", json={"prompts": ["a"]}, headers={"Idempotency-Key": "k"})).status_code == 503
        again = await client.post("/v1/kept", json={"prompts": ["a"]}, headers={"Idempotency-Key": "k"})
        assert (again.status_code, again.headers["Idempotency-Replayed"]) == (200, "true")
        assert (await client.post("/v1/kept", json={"prompts": ["a"]})).status_code == 429


def held_writing(patch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Events that tell that the audit log is being written, and let it be."""
    writing, write = threading.Event(), threading.Event()
    append = AuditLog.append

    def append_slowly(*arguments: Any) -> None:
        writing.set()
        assert write.wait(60)
        append(*arguments)

    patch.setattr(AuditLog, "append", append_slowly)
    return writing, write


async def test_service_that_stops_waits_for_requests_that_still_tell_what_became_of_them(
    settings: Settings, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, write = held_writing(monkeypatch)
    async with open_app(recorded_app(settings)) as client:
        request = asyncio.create_task(client.post("/v1/draws", json={"prompts": ["a"]}))
        assert await asyncio.to_thread(writing.wait, 60)
        request.cancel()
        await asyncio.sleep(0)
        threading.Timer(0.3, write.set).start()
    assert [event["outcome"] for event in events()] == ["done", "failed"]


async def test_job_and_its_event_are_committed_together(settings: Settings, events: Events) -> None:
    async with open_app(make_app(settings, run_jobs=False)) as client:
        body = {"prompt": PROMPT}
        assert (await client.post("/v1/things", json=body, headers={"Idempotency-Key": "k"})).status_code == 202
        assert (await client.post("/v1/things", json=body, headers={"Idempotency-Key": "k"})).status_code == 202
        assert (await client.post("/v1/things/thing_1/cancel")).status_code == 200
        assert (await client.post("/v1/things/thing_1/cancel")).status_code == 200
        assert (await client.post("/v1/things/thing_9/cancel")).status_code == 404
    told = [(event["outcome"], event["status"], event["resources"].get("steps"), event["route"]) for event in events()]
    assert told == [
        ("done", 202, "thing_1", "POST /v1/things"),
        ("done", 202, "thing_1", "POST /v1/things"),
        ("begun", None, "thing_1", "POST /v1/things/{id}/cancel"),
        ("begun", None, "thing_1", "POST /v1/things/{id}/cancel"),
        ("refused", 404, None, "POST /v1/things/{id}/cancel"),
    ]
    assert PROMPT not in str(events())


@pytest.mark.usefixtures("broken_log", "logged")
async def test_no_job_is_queued_when_its_event_cannot_be_written(settings: Settings) -> None:
    async with open_app(make_app(settings, run_jobs=False)) as client:
        assert (await client.post("/v1/things", json={"prompt": PROMPT})).status_code == 503
        assert (await client.get("/v1/things")).json()["items"] == []


async def test_events_of_requests_that_come_together_make_one_chain(client: httpx.AsyncClient, events: Events, settings: Settings) -> None:
    answers = await asyncio.gather(*(client.post("/v1/draws", json={"prompts": [f"{number}"]}) for number in range(40)))
    assert [answer.status_code for answer in answers] == [200] * 40
    assert len({event["prompts"][0]["hmac"] for event in events()}) == 40
    log = AuditLog.open(settings)
    assert [event.sequence for event in log.read() if log.chain.is_genuine(event)] == list(range(1, 41))
    log.close()


async def test_service_whose_log_ends_with_a_foreign_event_is_not_ready(client: httpx.AsyncClient, settings: Settings) -> None:
    assert (await client.get("/readyz")).status_code == 200
    with closing(Database.open(settings)) as database, database.writing() as connection:
        connection.execute(text("INSERT INTO audit_events VALUES (1, '{}', 'a', 'b')"))
    refused = await client.get("/readyz")
    assert refused.status_code == 503
    assert "audit-log verify" in refused.json()["reasons"][0]
    assert (await client.post("/v1/draws", json={"prompts": ["a"]})).status_code == 503
