"""Schemas: prepared once, by however many processes, and told apart from those that are behind."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, Table, inspect, select, text

from shared.database import Schema, missing_steps, open_engine, prepare_embedded, prepare_schema

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer

FIRST = Table("first", MetaData(), Column("id", Integer, primary_key=True))
SECOND = Table("second", MetaData(), Column("id", Integer, primary_key=True))


def create_first(connection: Connection) -> None:
    FIRST.create(connection)


def create_second(connection: Connection) -> None:
    SECOND.create(connection)


OLD = Schema("sample", (create_first,))
NEW = Schema("sample", (create_first, create_second))


def test_steps_run_once_each_and_the_missing_ones_are_counted(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'new' / 'lethe.db'}")
    assert missing_steps(engine, NEW) == 2
    prepare_schema(engine, OLD)
    prepare_schema(engine, OLD)
    assert (missing_steps(engine, OLD), missing_steps(engine, NEW)) == (0, 1)
    prepare_schema(engine, NEW)
    assert missing_steps(engine, NEW) == 0
    assert set(inspect(engine).get_table_names()) == {"first", "second", "lethe_sample_schema"}
    with engine.begin() as connection:
        assert connection.scalars(select(NEW.versions.c.version)).all() == [1, 2]
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
    engine.dispose()


def prepare_by_many(url: str) -> list[BaseException]:
    failures: list[BaseException] = []

    def prepare() -> None:
        engine = open_engine(url)
        try:
            prepare_schema(engine, NEW)
        except Exception as error:  # noqa: BLE001 - the test shows whatever it was
            failures.append(error)
        finally:
            engine.dispose()

    threads = [threading.Thread(target=prepare) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_many_at_once_prepare_a_sqlite_file(tmp_path: Path) -> None:
    assert prepare_by_many(f"sqlite:///{tmp_path / 'lethe.db'}") == []


def test_sqlite_is_prepared_without_a_command(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'lethe.db'}")
    prepare_embedded(engine, NEW)
    assert missing_steps(engine, NEW) == 0
    engine.dispose()


@pytest.mark.server
def test_postgres_is_left_to_the_command(postgres_server: PostgresServer) -> None:
    engine = open_engine(postgres_server.new_database())
    prepare_embedded(engine, NEW)
    assert missing_steps(engine, NEW) == 2
    engine.dispose()


@pytest.mark.server
def test_many_at_once_prepare_a_postgres_database(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    assert prepare_by_many(url) == []
    engine = open_engine(url)
    assert missing_steps(engine, NEW) == 0
    engine.dispose()
