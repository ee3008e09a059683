"""The audit log in SQL: events are appended one after the other over all services and replicas, and read in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Self

from sqlalchemy import Connection, Row, insert, select, text

from shared.auditing.chain import GENESIS, Chain
from shared.auditing.events import AuditEvent, ChainedEvent
from shared.auditing.tables import AUDIT_EVENTS, AUDIT_SCHEMA
from shared.database import Database, prepare_embedded
from shared.errors import NotFoundError
from shared.kept_keys import kept_key
from shared.settings import Settings

KEY_FILE: Final = "audit-log.key"

# Any number does, as long as all processes of Lethe agree on it and nothing else of Lethe locks it.
_ADVISORY_LOCK: Final = 5_150_448
# Enough to make a page's query cheap beside its reading.
_PAGE: Final = 1000


class AuditLog:
    """All events behind one database; safe to share between threads."""

    def __init__(self, database: Database, *, key: bytes) -> None:
        self._database = database
        self.chain = Chain(key)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """The log that the settings name, under the key that the installation keeps; on SQLite its table is made."""
        database = Database.open(settings)
        prepare_embedded(database.engine, AUDIT_SCHEMA)
        return cls.of(settings, database)

    @classmethod
    def of(cls, settings: Settings, database: Database) -> Self:
        """The log in a database whose tables are there."""
        return cls(database, key=kept_key(settings.keys_folder / KEY_FILE))

    @classmethod
    def open_to_read(cls, settings: Settings) -> Self:
        """The same for who looks at it; NotFoundError where the key is missing, since with a new one every event would seem altered."""
        path = settings.keys_folder / KEY_FILE
        if not path.exists():
            raise NotFoundError(f"There is no key {path}; LETHE_KEYS must name the folder that the services use.")
        return cls.open(settings)

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def ping(self) -> None:
        """Ask for the newest event; UnavailableError when the database does not answer."""
        self.head()

    def append(self, events: Sequence[AuditEvent]) -> None:
        """Commit events at the end of the chain, all or none; UnavailableError when the database does not answer."""
        with self._database.writing() as connection:
            self.append_within(connection, events)

    def append_within(self, connection: Connection, events: Sequence[AuditEvent]) -> None:
        """The same as the last statement of a transaction, with which the events are committed or not."""
        if connection.dialect.name == "postgresql":  # a transaction of SQLite that writes is alone already
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
        head = _head(connection)
        sequence, previous = (head.sequence, head.hash) if head is not None else (0, GENESIS)
        rows = []
        for event in events:
            chained = self.chain.link(event, sequence=sequence + 1, previous=previous)
            sequence, previous = chained.sequence, chained.hash
            rows.append({"sequence": sequence, "content": chained.content, "previous": chained.previous, "hash": previous})
        connection.execute(insert(AUDIT_EVENTS), rows)

    def head(self) -> ChainedEvent | None:
        """The newest event; None before the first."""
        with self._database.reading() as connection:
            return _head(connection)

    def newest(self, count: int) -> list[ChainedEvent]:
        """Up to so many events, newest first."""
        wanted = select(AUDIT_EVENTS).order_by(AUDIT_EVENTS.c.sequence.desc()).limit(count)
        with self._database.reading() as connection:
            return [_chained(row) for row in connection.execute(wanted)]

    def read(self) -> Iterator[ChainedEvent]:
        """All events in order, read page by page."""
        after: int | None = None
        while page := self._page(after):
            yield from page
            after = page[-1].sequence

    def _page(self, after: int | None) -> list[ChainedEvent]:
        """The events after a number; from the lowest on without one, since who inserts events may number them below 1."""
        wanted = select(AUDIT_EVENTS).order_by(AUDIT_EVENTS.c.sequence).limit(_PAGE)
        if after is not None:
            wanted = wanted.where(AUDIT_EVENTS.c.sequence > after)
        with self._database.reading() as connection:
            return [_chained(row) for row in connection.execute(wanted)]


def _head(connection: Connection) -> ChainedEvent | None:
    """The newest event as a transaction sees it."""
    row = connection.execute(select(AUDIT_EVENTS).order_by(AUDIT_EVENTS.c.sequence.desc()).limit(1)).one_or_none()
    return None if row is None else _chained(row)


def _chained(row: Row[tuple[int, str, str, str]]) -> ChainedEvent:
    """An event as it was read; SQLite lets who alters it put other things than text."""
    return ChainedEvent(sequence=row.sequence, content=str(row.content), previous=str(row.previous), hash=str(row.hash))
