"""Tables: made once, by however many processes, and kept as SQLite should keep them."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from traceback import format_exception
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, inspect, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import QueuePool

from shared.jobs.tables import EVENTS, SCHEMA_VERSION, UtcMicroseconds, open_engine, prepare_tables, writing

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer


def test_prepare_makes_all_tables_and_running_it_again_changes_nothing(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'new' / 'lethe.db'}")
    prepare_tables(engine)
    prepare_tables(engine)
    assert set(inspect(engine).get_table_names()) == {"jobs", "job_events", "idempotency_keys", "lethe_job_schema"}
    with engine.begin() as connection:
        assert connection.scalars(select(SCHEMA_VERSION.c.version)).all() == [1]
    engine.dispose()


def test_prepare_by_many_at_once_succeeds(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def prepare() -> None:
        engine = open_engine(f"sqlite:///{tmp_path / 'lethe.db'}")
        try:
            prepare_tables(engine)
        except Exception as error:  # noqa: BLE001 - the test shows whatever it was
            failures.append(error)
        finally:
            engine.dispose()

    threads = [threading.Thread(target=prepare) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_sqlite_keeps_a_write_ahead_log_foreign_keys_and_patience(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'lethe.db'}")
    prepare_tables(engine)
    with engine.begin() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
        assert connection.scalar(text("PRAGMA busy_timeout")) == 15_000
    with pytest.raises(IntegrityError, match="FOREIGN KEY"), writing(engine).begin() as connection:
        connection.execute(insert(EVENTS).values(job_id="nobody", sequence=1, name="state", data={}))
    assert isinstance(engine.pool, QueuePool)
    engine.dispose()


@pytest.mark.server
def test_postgres_prepared_by_many_at_once_is_patient_but_not_forever(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    engines = [open_engine(url) for _ in range(4)]
    threads = [threading.Thread(target=prepare_tables, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engines[0].begin() as connection:
        assert connection.scalars(select(SCHEMA_VERSION.c.version)).all() == [1]
        assert connection.scalar(text("SHOW lock_timeout")) == "15s"
        assert connection.scalar(text("SHOW application_name")) == "lethe"
    for engine in engines:
        engine.dispose()


@pytest.mark.parametrize(
    "url", ["postgres://u:open-sesame@h/d", "postgresql://u:open-sesame@h/d", "postgresql+psycopg://u:open-sesame@h/d"]
)
def test_every_spelling_of_postgresql_is_spoken_with_psycopg(url: str) -> None:
    engine = open_engine(url)
    assert engine.url.drivername == "postgresql+psycopg"
    assert "open-sesame" not in repr(engine)
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u:open-sesame@h/d", "names 'mysql'"),
        ("postgresql//u:open-sesame@h/d", "cannot be read"),
        ("postgresql://u:open-sesame@h:port/d", "cannot be read"),
    ],
)
def test_url_that_cannot_be_used_is_refused_without_its_password(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"LETHE_DATABASE_URL {message}") as caught:
        open_engine(url)
    assert "open-sesame" not in "".join(format_exception(caught.value))


def test_statement_errors_hide_their_values(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'lethe.db'}")
    prepare_tables(engine)
    with pytest.raises(IntegrityError) as caught, writing(engine).begin() as connection:
        connection.execute(insert(EVENTS).values(job_id="canary-prompt", sequence=1, name="state", data={}))
    assert "canary-prompt" not in str(caught.value)
    engine.dispose()


def test_moment_survives_to_the_microsecond() -> None:
    kind = UtcMicroseconds()
    dialect = open_engine("sqlite://").dialect
    moment = datetime(2026, 11, 22, 13, 5, 7, 123457, tzinfo=UTC)
    stored = kind.process_bind_param(moment, dialect)
    assert stored == 1795352707123457
    assert kind.process_result_value(stored, dialect) == moment
    assert kind.process_result_value(stored, dialect) - moment == timedelta(0)  # type: ignore[operator]
    assert kind.process_bind_param(None, dialect) is None
