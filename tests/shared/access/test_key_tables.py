"""The tables of keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import inspect

from shared.access.key_tables import ACCESS_SCHEMA
from shared.database import Database, missing_steps, prepare_schema
from shared.settings import Settings
from tests.servers.postgres import PostgresServer


def test_tables_are_made_once_on_sqlite(tmp_path: Path) -> None:
    _make_twice(Database.open(Settings(home=tmp_path)))


@pytest.mark.server
def test_tables_are_made_once_on_postgresql(postgres_server: PostgresServer) -> None:
    _make_twice(Database(postgres_server.new_database()))


def _make_twice(database: Database) -> None:
    for _ in range(2):
        prepare_schema(database.engine, ACCESS_SCHEMA)
    assert {"access_keys", "access_key_secrets"} <= set(inspect(database.engine).get_table_names())
    assert missing_steps(database.engine, ACCESS_SCHEMA) == 0
    database.close()
