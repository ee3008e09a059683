"""The audit log in SQL: events are appended one after the other over all services and replicas, and read in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Self

from prometheus_client import Gauge
from sqlalchemy import Connection, Row, insert, select, text

from shared.auditing.chain import GENESIS, Chain
from shared.auditing.events import AuditEvent, ChainedEvent
from shared.auditing.tables import AUDIT_EVENTS, AUDIT_SCHEMA
from shared.database import Database, prepare_embedded
from shared.errors import NotFoundError, UnavailableError
from shared.kept_keys import kept_key
from shared.settings import Settings

BROKEN = Gauge("lethe_audit_broken", "1 where the audit log ended with an event that is not genuine when it was looked at last.")

KEY_FILE: Final = "audit-log.key"

# Any number does, as long as all processes of Lethe agree on it and nothing else of Lethe locks it.
_ADVISORY_LOCK: Final = 5_150_448
# Enough to make a page's query cheap beside its reading.
_PAGE: Final = 1000


class BrokenLogError(UnavailableError):
    """The log does not end with an event that was written under this installation's key; nothing may be appended to that."""


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
        """The log in a database whose tables are there; BrokenLogError where it has events and its key is missing."""
        path = settings.keys_folder / KEY_FILE
        # The key is older than every event, so one that is made while this looks is found afterwards.
        if not path.exists() and _has_events(database) and not path.exists():
            raise BrokenLogError(f"The audit log has events, and there is no key {path}; LETHE_KEYS must name the folder that made it.")
        return cls(database, key=kept_key(path))

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

    def check(self) -> None:
        """Look at the newest event; UnavailableError when the database does not answer, BrokenLogError when the event is not genuine."""
        self.head()

    def append(self, events: Sequence[AuditEvent]) -> None:
        """Commit events at the end of the chain, all or none; UnavailableError when the database does not answer."""
        with self._database.writing() as connection:
            self.append_within(connection, events)

    def append_within(self, connection: Connection, events: Sequence[AuditEvent]) -> None:
        """The same as the last statement of a transaction, with which the events are committed or not.

        BrokenLogError where the log ends with an event that is not genuine: a chain that went on from there would vouch for it.
        """
        if connection.dialect.name == "postgresql":  # a transaction of SQLite that writes is alone already
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
        head = self._genuine_head(connection)
        sequence, previous = (head.sequence, head.hash) if head is not None else (0, GENESIS)
        rows = []
        for event in events:
            chained = self.chain.link(event, sequence=sequence + 1, previous=previous)
            sequence, previous = chained.sequence, chained.hash
            rows.append({"sequence": sequence, "content": chained.content, "previous": chained.previous, "hash": previous})
        connection.execute(insert(AUDIT_EVENTS), rows)

    def head(self) -> ChainedEvent | None:
        """The newest event, which is genuine, or BrokenLogError; None before the first."""
        with self._database.reading() as connection:
            return self._genuine_head(connection)

    def newest(self, count: int) -> list[ChainedEvent]:
        """Up to so many events, newest first."""
        wanted = select(AUDIT_EVENTS).order_by(AUDIT_EVENTS.c.sequence.desc()).limit(count)
        with self._database.reading() as connection:
            return [_chained(row) for row in connection.execute(wanted)]

    def read(self, after: int | None = None) -> Iterator[ChainedEvent]:
        """All events in order, or those after a number, read page by page."""
        while page := self._page(after):
            yield from page
            after = page[-1].sequence

    def _genuine_head(self, connection: Connection) -> ChainedEvent | None:
        """The newest event as a transaction sees it."""
        head = _head(connection)
        genuine = head is None or self.chain.is_genuine(head)
        BROKEN.set(not genuine)
        if not genuine:
            raise BrokenLogError(
                "The newest event of the audit log was not written under this installation's key; 'lethe audit-log verify' tells more."
            )
        return head

    def _page(self, after: int | None) -> list[ChainedEvent]:
        """The events after a number; from the lowest on without one, since who inserts events may number them below 1."""
        wanted = select(AUDIT_EVENTS).order_by(AUDIT_EVENTS.c.sequence).limit(_PAGE)
        if after is not None:
            wanted = wanted.where(AUDIT_EVENTS.c.sequence > after)
        with self._database.reading() as connection:
            return [_chained(row) for row in connection.execute(wanted)]


def _has_events(database: Database) -> bool:
    """Whether there is any event; a database that does not answer tells of none, and is asked again with the first append."""
    try:
        with database.reading() as connection:
            return _head(connection) is not None
    except UnavailableError:
        return False


def _head(connection: Connection) -> ChainedEvent | None:
    """The newest event as a transaction sees it."""
    row = connection.execute(select(AUDIT_EVENTS).order_by(AUDIT_EVENTS.c.sequence.desc()).limit(1)).one_or_none()
    return None if row is None else _chained(row)


def _chained(row: Row[tuple[int, str, str, str]]) -> ChainedEvent:
    """An event as it was read; SQLite lets who alters it put other things than text."""
    return ChainedEvent(sequence=row.sequence, content=str(row.content), previous=str(row.previous), hash=str(row.hash))
