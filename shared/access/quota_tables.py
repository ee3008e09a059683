"""The SQL table of what callers used of their quotas."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Connection, MetaData, String, Table

from shared.database import Schema, UtcMicroseconds

METADATA = MetaData()

# One row for each caller, meter, window and subject; of a window that is over, rows go with anybody's next one.
QUOTA_USAGE = Table(
    "quota_usage",
    METADATA,
    Column("caller", String(255), primary_key=True),
    Column("meter", String(16), primary_key=True),
    Column("window_start", UtcMicroseconds, primary_key=True),
    Column("subject", String(64), primary_key=True),
    Column("used", BigInteger, nullable=False),
)


def _create_usage(connection: Connection) -> None:
    """Version 1: the usage."""
    METADATA.create_all(connection, tables=[QUOTA_USAGE])


QUOTA_SCHEMA = Schema("quota", (_create_usage,))
