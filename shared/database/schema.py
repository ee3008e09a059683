"""Schemas: the tables of one owner, brought to their newest version by numbered steps that run once each."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Table, insert, inspect, select, text

from shared.database.engine import named_failures, writing
from shared.database.silence import unhurried

# Any number does, as long as all processes of Lethe agree on it.
_ADVISORY_LOCK: Final = 5_150_447


@dataclass(frozen=True)
class Schema:
    """The tables of one owner: version n is made by the n-th step; steps are appended, never changed."""

    name: str
    steps: Sequence[Callable[[Connection], None]]

    @property
    def versions(self) -> Table:
        """The table that says which steps have run."""
        return Table(f"lethe_{self.name}_schema", MetaData(), Column("version", Integer, primary_key=True))


def prepare_schema(engine: Engine, schema: Schema) -> None:
    """Run the steps that have not run yet; safe to repeat, and from several processes at the same time."""
    versions = schema.versions
    with named_failures(), _preparing_sqlite(engine), writing(engine).begin() as connection:
        if engine.dialect.name == "postgresql":
            take_turns(connection)
        versions.create(connection, checkfirst=True)
        done = set(connection.scalars(select(versions.c.version)))
        for number, step in enumerate(schema.steps, start=1):
            if number not in done:
                with unhurried(connection):
                    step(connection)
                connection.execute(insert(versions).values(version=number))


def prepare_embedded(engine: Engine, schema: Schema) -> None:
    """On SQLite, which has no operator, run what has not run yet; on PostgreSQL that is left to `lethe migrate`."""
    if engine.dialect.name == "sqlite":
        prepare_schema(engine, schema)


def missing_steps(engine: Engine, schema: Schema) -> int:
    """How many steps have not run yet; UnavailableError when the database does not answer."""
    versions = schema.versions
    with named_failures(), engine.begin() as connection:
        if not inspect(connection).has_table(versions.name):
            return len(schema.steps)
        done = set(connection.scalars(select(versions.c.version)))
    return len(set(range(1, len(schema.steps) + 1)) - done)


def take_turns(connection: Connection) -> None:
    """Wait, on PostgreSQL, until no other process changes tables or rights; it then waits for the end of this transaction."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})


@contextmanager
def _preparing_sqlite(engine: Engine) -> Iterator[None]:
    """Let one process at a time switch a SQLite file to the write-ahead log: the busy timeout does not cover that."""
    path = engine.url.database if engine.dialect.name == "sqlite" else None
    if not path or path == ":memory:":
        yield
        return
    with Path(f"{path}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        raw = engine.raw_connection()
        try:
            raw.cursor().execute("PRAGMA journal_mode = WAL")
        finally:
            raw.close()
        yield
