"""The SQL tables of job records, their events and idempotency keys, and the engine that reaches them."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    URL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Dialect,
    Engine,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError
from sqlalchemy.types import TypeDecorator

# A writer waits this long for another one before the call fails; progress writes take milliseconds.
_BUSY_TIMEOUT_SECONDS = 15
# Any number does, as long as all processes of Lethe agree on it.
_ADVISORY_LOCK = 5_150_447
# What PostgreSQL leaves open-ended: a server that is away, a connection that hangs and a row that stays locked are told within seconds.
_POSTGRESQL_OPTIONS = {
    "application_name": "lethe",
    "connect_timeout": 5,
    "tcp_user_timeout": _BUSY_TIMEOUT_SECONDS * 1000,
    "options": f"-c lock_timeout={_BUSY_TIMEOUT_SECONDS}s -c idle_in_transaction_session_timeout=60s",
}
_PSYCOPG = "postgresql+psycopg"
_DRIVERS = {"sqlite": "sqlite", "postgres": _PSYCOPG, "postgresql": _PSYCOPG, _PSYCOPG: _PSYCOPG}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

METADATA = MetaData()


class UtcMicroseconds(TypeDecorator[datetime]):
    """A moment as whole microseconds since 1970, so that every database orders and returns it alike."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """From a zoned moment to the stored number."""
        del dialect
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """From the stored number to a zoned moment."""
        del dialect
        return None if value is None else _EPOCH + timedelta(microseconds=value)


SCHEMA_VERSION = Table("lethe_job_schema", METADATA, Column("version", Integer, primary_key=True))

JOBS = Table(
    "jobs",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("version", Integer, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("spec_digest", String(64), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("lease_owner", String(255)),
    Column("lease_expires", UtcMicroseconds),
    Column("heartbeat", UtcMicroseconds),
    Column("cancel_requested", Boolean, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("message", Text, nullable=False),
    Column("reported", JSON, nullable=False),
    Column("result", JSON),
    Column("problem", JSON),
    Column("trace_id", String(32)),
    Column("event_count", BigInteger, nullable=False),
    Column("created", UtcMicroseconds, nullable=False),
    Column("updated", UtcMicroseconds, nullable=False),
    Column("started", UtcMicroseconds),
    Column("ended", UtcMicroseconds),
    Index("ix_jobs_kind_state", "kind", "state", "created"),
)

EVENTS = Table(
    "job_events",
    METADATA,
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("name", String(16), nullable=False),
    Column("data", JSON, nullable=False),
)

IDEMPOTENCY = Table(
    "idempotency_keys",
    METADATA,
    Column("scope", String(255), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("response", JSON, nullable=False),
    Column("created", UtcMicroseconds, nullable=False, index=True),
)


def open_engine(url: str) -> Engine:
    """An engine for the database URL; SQLite gets its folder, a busy timeout, foreign keys and early write locks."""
    place = _read_url(url)
    if place.drivername == "sqlite":
        return _open_sqlite(place)
    # Statements carry job specs, which may hold prompts: they must not appear in error messages.
    options = {name: value for name, value in _POSTGRESQL_OPTIONS.items() if name not in place.query}
    return create_engine(place, hide_parameters=True, pool_pre_ping=True, connect_args=options)


def _read_url(url: str) -> URL:
    """The parts of a database URL; ValueError for one that Lethe cannot use, without the password that it may hold."""
    try:
        place = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError("LETHE_DATABASE_URL cannot be read; write it as postgresql://user:password@host:5432/database.") from None
    if place.drivername not in _DRIVERS:
        raise ValueError(f"LETHE_DATABASE_URL names {place.drivername!r}; job records live in sqlite or postgresql.")
    return place.set(drivername=_DRIVERS[place.drivername])


def _open_sqlite(place: URL) -> Engine:
    """An engine for a SQLite file."""
    engine = create_engine(place, hide_parameters=True)
    if place.database:
        Path(place.database).parent.mkdir(parents=True, exist_ok=True)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def writing(engine: Engine) -> Engine:
    """The same engine for transactions that write: on SQLite they take the write lock at once, so that none fails half-way."""
    return engine.execution_options(lethe_writes=True)


def prepare_tables(engine: Engine) -> None:
    """Bring the tables to the newest version; safe to run again, and from several processes at the same time."""
    with _preparing_sqlite(engine), writing(engine).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
        SCHEMA_VERSION.create(connection, checkfirst=True)
        done = set(connection.scalars(select(SCHEMA_VERSION.c.version)))
        for number, migrate in enumerate(_MIGRATIONS, start=1):
            if number not in done:
                migrate(connection)
                connection.execute(insert(SCHEMA_VERSION).values(version=number))


def _create_first_tables(connection: Connection) -> None:
    """Version 1: jobs, events, idempotency keys."""
    METADATA.create_all(connection, tables=[JOBS, EVENTS, IDEMPOTENCY])


# Version n is the n-th entry; entries are appended, never changed.
_MIGRATIONS: tuple[Callable[[Connection], None], ...] = (_create_first_tables,)


def _configure_sqlite(connection: Any, _record: object) -> None:
    """Set what SQLite forgets with every connection."""
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says, not where the driver guesses
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_SECONDS * 1000}")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    """Begin a transaction, with the write lock when the engine was opened for writing."""
    writes = connection.get_execution_options().get("lethe_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


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
