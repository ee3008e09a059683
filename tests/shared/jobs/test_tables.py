"""Tables of jobs: made by their schema, and kept as SQLite and PostgreSQL should keep them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, inspect, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import QueuePool

from shared.database import open_engine, prepare_schema, writing
from shared.jobs.tables import EVENTS, JOB_SCHEMA

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer


def test_prepare_makes_all_tables(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'new' / 'lethe.db'}")
    prepare_schema(engine, JOB_SCHEMA)
    assert set(inspect(engine).get_table_names()) == {"jobs", "job_events", "idempotency_keys", "lethe_job_schema"}
    with engine.begin() as connection:
        assert connection.scalars(select(JOB_SCHEMA.versions.c.version)).all() == [1]
    engine.dispose()


def test_sqlite_keeps_a_write_ahead_log_foreign_keys_and_patience(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'lethe.db'}")
    prepare_schema(engine, JOB_SCHEMA)
    with engine.begin() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
        assert connection.scalar(text("PRAGMA busy_timeout")) == 15_000
    with pytest.raises(IntegrityError, match="FOREIGN KEY"), writing(engine).begin() as connection:
        connection.execute(insert(EVENTS).values(job_id="nobody", sequence=1, name="state", data={}))
    assert isinstance(engine.pool, QueuePool)
    engine.dispose()


@pytest.mark.server
def test_postgres_is_patient_but_not_forever(postgres_server: PostgresServer) -> None:
    engine = open_engine(postgres_server.new_database())
    prepare_schema(engine, JOB_SCHEMA)
    with engine.begin() as connection:
        assert connection.scalar(text("SHOW lock_timeout")) == "15s"
        assert connection.scalar(text("SHOW application_name")) == "lethe"
    engine.dispose()
