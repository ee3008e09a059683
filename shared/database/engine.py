"""The one way to the SQL database: SQLite in a file, or PostgreSQL; transactions whose failures have one name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as SqlTimeoutError

from shared.database.silence import BoundedConnection
from shared.errors import SettingsError, UnavailableError
from shared.settings import Settings

# A writer waits this long for another one before the call fails; progress writes take milliseconds.
_BUSY_TIMEOUT_SECONDS: Final = 15
# What PostgreSQL leaves open-ended: a server that is away, a connection that hangs and a row that stays locked are told within seconds.
# Of one that dies while it is waited for nothing more comes at all: signs of life are asked for, which Linux does after two hours.
_POSTGRESQL_OPTIONS: Final = {
    "application_name": "lethe",
    "connect_timeout": 5,
    "tcp_user_timeout": _BUSY_TIMEOUT_SECONDS * 1000,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "options": f"-c lock_timeout={_BUSY_TIMEOUT_SECONDS}s -c idle_in_transaction_session_timeout=60s",
}
# A pool keeps few connections and opens few more, so that what all services may take together is known (docs/sizing.md); transactions
# are short, and who waits for a connection longer than for a lock is told that the database does not answer.
_POOL: Final = {"pool_size": 3, "max_overflow": 5, "pool_timeout": _BUSY_TIMEOUT_SECONDS}
_AWAY: Final = "The database does not answer; try again later."
_NOT_MIGRATED: Final = "The database lacks tables of this version; run 'lethe migrate'."
# What PostgreSQL refuses although the statement is right, by SQLSTATE.
_READ_ONLY: Final = "The database takes no writes now; is it a standby, or its disk full? Try again later."
_REFUSALS: Final = {
    "42P01": _NOT_MIGRATED,  # undefined_table
    "42703": _NOT_MIGRATED,  # undefined_column
    "42501": "The database refuses its role a right that Lethe needs; 'lethe migrate' makes tables, services read and write them.",
    "25006": _READ_ONLY,  # read_only_sql_transaction
}
_PSYCOPG: Final = "postgresql+psycopg"
_DRIVERS: Final = {"sqlite": "sqlite", "postgres": _PSYCOPG, "postgresql": _PSYCOPG, _PSYCOPG: _PSYCOPG}


class Database:
    """One database and its connections; safe to share between threads."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url)
        self._writes = writing(self.engine)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """The database that the settings name; nothing is sent before the first transaction."""
        return cls(settings.sql_url)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def ping(self) -> None:
        """Ask the database something small; UnavailableError when it does not answer."""
        with self.reading() as connection:
            connection.execute(text("SELECT 1"))

    def check_writes(self) -> None:
        """UnavailableError where PostgreSQL takes no writes, as a standby does, or does not answer."""
        with self.reading() as connection:
            if connection.dialect.name == "postgresql" and connection.scalar(text("SHOW transaction_read_only")) == "on":
                raise UnavailableError(_READ_ONLY)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads; UnavailableError when the database does not answer."""
        with named_failures(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes all or nothing; UnavailableError when the database does not answer."""
        with named_failures(), self._writes.begin() as connection:
            yield connection


def open_engine(url: str) -> Engine:
    """An engine for the database URL; SQLite gets its folder, a busy timeout, foreign keys and early write locks."""
    place = read_url(url, "LETHE_DATABASE_URL")
    if place.drivername == "sqlite":
        return _open_sqlite(place)
    # Statements carry job specs, which may hold prompts: they must not appear in error messages.
    options = {name: value for name, value in _POSTGRESQL_OPTIONS.items() if name not in place.query}
    engine = create_engine(
        place,
        isolation_level="READ COMMITTED",  # whatever the server prefers: who waited for a lock must see what its holder wrote
        hide_parameters=True,
        pool_pre_ping=True,
        connect_args=options,
        **_POOL,
    )
    event.listen(engine, "do_connect", _connect_bounded)
    return engine


def read_url(url: str, variable: str) -> URL:
    """The parts of a database URL; SettingsError for one that Lethe cannot use, without the password that it may hold."""
    try:
        place = make_url(url)
    except (ArgumentError, ValueError):
        raise SettingsError(f"{variable} cannot be read; write it as postgresql://user:password@host:5432/database.") from None
    if place.drivername not in _DRIVERS:
        raise SettingsError(f"{variable} names {place.drivername!r}; job records live in sqlite or postgresql.")
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


@contextmanager
def named_failures() -> Iterator[None]:
    """Tell a database that does not answer, or that was not migrated, apart from defects."""
    try:
        yield
    except (OperationalError, InterfaceError, SqlTimeoutError) as error:
        raise UnavailableError(_AWAY) from error
    except DBAPIError as error:
        message = _REFUSALS.get(getattr(error.orig, "sqlstate", None) or "", _AWAY if error.connection_invalidated else None)
        if message is None:
            raise
        raise UnavailableError(message) from error


def _connect_bounded(_dialect: object, _record: object, arguments: tuple[Any, ...], options: dict[str, Any]) -> BoundedConnection:
    """A connection in place of the driver's own."""
    return BoundedConnection.connect(*arguments, **options)


def _configure_sqlite(connection: Any, _record: object) -> None:
    """Set what SQLite forgets with every connection."""
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says, not where the driver guesses
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_SECONDS * 1000}")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    """Begin a transaction, with the write lock when the engine was opened for writing."""
    writes = connection.get_execution_options().get("lethe_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
