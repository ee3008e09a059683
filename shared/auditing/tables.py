"""The SQL table of the audit log, which takes new rows and nothing else."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Connection, Integer, MetaData, String, Table, Text, text

from shared.database import Schema

METADATA = MetaData()

# The event is one text, so that what is hashed is what is stored, to the byte.
AUDIT_EVENTS = Table(
    "audit_events",
    METADATA,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("content", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)

_REFUSAL: Final = "audit events are never changed or removed"
# Against mistakes, not against who owns the database: of them the chain tells.
_GUARDS: Final = {
    "sqlite": [
        f"CREATE TRIGGER audit_events_no_{verb} BEFORE {verb} ON audit_events BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        for verb in ("update", "delete")
    ],
    "postgresql": [
        f"CREATE FUNCTION audit_events_stay() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$",
        "CREATE TRIGGER stay BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events FOR EACH STATEMENT EXECUTE FUNCTION audit_events_stay()",
    ],
}


def _create_events(connection: Connection) -> None:
    """Version 1: the events, and what refuses to change them."""
    METADATA.create_all(connection, tables=[AUDIT_EVENTS])
    for guard in _GUARDS[connection.dialect.name]:
        connection.execute(text(guard))


AUDIT_SCHEMA = Schema("audit", (_create_events,))
