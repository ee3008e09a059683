"""The app as a whole: discovery, contract, closing."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest

from shared import kept_keys
from shared.access.key_records import KeyRecords
from shared.auditing import AuditLog
from shared.database import Database
from shared.errors import UnavailableError
from shared.http.app import create_app
from shared.http.migrations import migrate_embedded
from shared.settings import Settings
from shared.telemetry import lethe_version
from tests.fixtures.apps import open_app
from tests.shared.http.fake_app import make_app

pytestmark = pytest.mark.anyio


async def test_info_names_service_version_and_contract(service: Any) -> None:
    assert (await service.client.get("/v1/info")).json() == {"service": "fake", "version": lethe_version(), "contract": "v1"}


async def test_contract_declares_problems_on_every_route_and_health_on_none(service: Any) -> None:
    schema = (await service.client.get("/openapi.json")).json()
    assert not {"/livez", "/readyz", "/metrics", "/docs"} & set(schema["paths"])
    for methods in schema["paths"].values():
        for route in methods.values():
            for status in ("400", "404", "409", "413", "415", "422", "500", "503"):
                content = route["responses"][status]["content"]
                assert content == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    assert schema["components"]["schemas"]["Problem"]["properties"]["errors"]["anyOf"][0]["items"] == {
        "$ref": "#/components/schemas/FieldProblem"
    }
    assert "FieldProblem" in schema["components"]["schemas"]
    assert "HTTPValidationError" not in schema["components"]["schemas"]


async def test_every_reference_of_the_contract_exists(service: Any) -> None:
    schema = (await service.client.get("/openapi.json")).json()
    known = {f"#/components/schemas/{name}" for name in schema["components"]["schemas"]}

    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*map(references, node.values()))
        return set().union(*map(references, node)) if isinstance(node, list) else set()

    assert references(schema) <= known


async def test_denial_comes_before_the_body_is_read_and_has_the_callers_name(settings: Settings) -> None:
    guarding = settings.model_copy(update={"auth": "on"})
    with closing(Database.open(guarding)) as database:
        migrate_embedded(database)
        reader = KeyRecords.of(guarding, database).create(name="reader", scopes=["read"], lifetime=None)
    shown = {"Authorization": f"Bearer {reader.text}"}
    async with open_app(make_app(guarding, run_jobs=False)) as client:
        too_large = {"prompt": "p" * 2 * guarding.body_limit_bytes}
        answers = [
            await client.post("/v1/things", json=too_large, headers=shown),
            await client.get("/v1/things", headers=shown | {"Lethe-On-Behalf-Of": "person:dr-grey"}),
        ]
    assert [answer.json()["type"] for answer in answers] == ["urn:lethe:problem:forbidden"] * 2
    log = AuditLog.open(guarding)
    events = [chained.as_json()["event"] for chained in log.read()]
    log.close()
    assert [(event["route"], event["outcome"], event["caller"]) for event in events] == [
        ("POST /v1/things", "denied", reader.id),
        ("GET /v1/things", "denied", reader.id),
    ]


async def test_state_is_closed_when_the_lifespan_ends(settings: Settings) -> None:
    app = make_app(settings, run_jobs=True)
    async with app.router.lifespan_context(app) as state:
        assert state is not None
        jobs = state["service"].jobs
        assert jobs._database.engine.pool.checkedin() >= 1
    assert jobs._database.engine.pool.checkedin() == 0


@pytest.mark.parametrize("missing", ["idempotency", "page-tokens", "prompt-marks"])
async def test_service_that_lacks_a_key_and_cannot_make_it_does_not_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    folder = settings.home / "keys"
    folder.mkdir()
    for name in {"api-keys", "audit-log", "idempotency", "page-tokens", "prompt-marks"} - {missing}:
        (folder / f"{name}.key").write_bytes(bytes(32))

    def refuse(*_arguments: Any, **_named: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(kept_keys, "write_durable", refuse)
    with pytest.raises(UnavailableError, match=rf"{missing}\.key is not there to be read"):
        async with open_app(make_app(settings.model_copy(update={"keys": folder}), run_jobs=False)):
            pass


async def test_service_ends_its_work_before_the_audit_log_is_closed(settings: Settings) -> None:
    at_its_end: list[str] = []

    @asynccontextmanager
    async def lifespan(_settings: Settings) -> AsyncIterator[str]:
        yield "state"
        at_its_end.extend(thread.name for thread in threading.enumerate())

    app = create_app(service="fake", settings=settings, routers=[], lifespan=lifespan, state_type=str, ready=lambda _state: [])
    async with open_app(app):
        pass
    assert {"audit-log", "audit-anchors"} <= set(at_its_end)
    assert not {"audit-log", "audit-anchors"} & {thread.name for thread in threading.enumerate()}
