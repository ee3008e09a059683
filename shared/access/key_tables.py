"""The SQL tables of API keys: a key stays the same caller while the secrets that open it are rotated."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Connection, ForeignKey, LargeBinary, MetaData, String, Table

from shared.database import Schema, UtcMicroseconds

_METADATA = MetaData()

KEYS = Table(
    "access_keys",
    _METADATA,
    Column("id", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created", UtcMicroseconds, nullable=False),
    Column("revoked", UtcMicroseconds),
)

SECRETS = Table(
    "access_key_secrets",
    _METADATA,
    Column("prefix", String(12), primary_key=True),
    Column("key_id", String(64), ForeignKey("access_keys.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("hash", LargeBinary(32), nullable=False),
    Column("created", UtcMicroseconds, nullable=False),
    Column("expires", UtcMicroseconds),
    Column("last_used", UtcMicroseconds),
)


def _create_first_tables(connection: Connection) -> None:
    """Version 1: keys and their secrets."""
    _METADATA.create_all(connection, tables=[KEYS, SECRETS])


ACCESS_SCHEMA = Schema("access", (_create_first_tables,))
