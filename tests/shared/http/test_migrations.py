"""Migrations: run by command on PostgreSQL, at start on SQLite, and told by readiness when they are missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from shared.database import Database
from shared.errors import UnavailableError
from shared.http.migrations import SCHEMAS, migrate, migrate_embedded, reasons_to_migrate
from shared.jobs.records import JobStore
from shared.settings import Settings
from tests.fixtures.apps import open_app
from tests.shared.http.fake_app import make_app

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[Database]:
    with closing(Database(postgres_server.new_database())) as database:
        yield database


def test_schemas_have_names_of_their_own() -> None:
    assert len({schema.name for schema in SCHEMAS}) == len(SCHEMAS)


def test_sqlite_needs_no_command(settings: Settings) -> None:
    with closing(Database.open(settings)) as database:
        migrate_embedded(database)
        assert reasons_to_migrate(database) == []


@pytest.mark.server
def test_command_brings_every_schema_up_once(empty_database: Database) -> None:
    migrate_embedded(empty_database)
    names = ", ".join(schema.name for schema in SCHEMAS)
    assert reasons_to_migrate(empty_database) == [f"the database's tables are behind this version ({names}); run 'lethe migrate'"]
    assert migrate(empty_database) == {schema.name: len(schema.steps) for schema in SCHEMAS}
    assert migrate(empty_database) == dict.fromkeys([schema.name for schema in SCHEMAS], 0)
    assert reasons_to_migrate(empty_database) == []


@pytest.mark.server
def test_records_without_tables_are_unavailable_and_name_the_command(postgres_server: PostgresServer) -> None:
    settings = Settings(database_url=SecretStr(postgres_server.new_database()))
    with closing(JobStore.open(settings)) as store, pytest.raises(UnavailableError, match="run 'lethe migrate'"):
        store.ping()


@pytest.mark.server
@pytest.mark.anyio
async def test_service_becomes_ready_when_its_database_is_migrated(settings: Settings, empty_database: Database) -> None:
    url = SecretStr(empty_database.engine.url.render_as_string(hide_password=False))
    app = make_app(settings.model_copy(update={"database_url": url}), run_jobs=False)
    async with open_app(app) as client:
        refused = await client.get("/readyz")
        assert refused.status_code == 503
        assert "run 'lethe migrate'" in refused.json()["reasons"][0]
        job = await client.post("/v1/things", json={"prompt": "a film"})
        assert (job.status_code, job.json()["type"]) == (503, "urn:lethe:problem:dependency-unavailable")
        migrate(empty_database)
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post("/v1/things", json={"prompt": "a film"})).status_code == 202


@pytest.mark.server
@pytest.mark.anyio
async def test_service_whose_database_takes_no_writes_is_not_ready(settings: Settings, empty_database: Database) -> None:
    migrate(empty_database)
    url = empty_database.engine.url.render_as_string(hide_password=False)
    standby = SecretStr(f"{url}?options=-c%20default_transaction_read_only%3Don")
    for place, status in ((SecretStr(url), 200), (standby, 503)):
        async with open_app(make_app(settings.model_copy(update={"database_url": place}), run_jobs=False)) as client:
            answer = await client.get("/readyz")
            assert (answer.status_code, "takes no writes now" in answer.text) == (status, status == 503)
