"""The SQL tables of job records, their events and idempotency keys."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Connection, ForeignKey, Index, Integer, MetaData, String, Table, Text

from shared.database import Schema, UtcMicroseconds

METADATA = MetaData()

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


def _create_first_tables(connection: Connection) -> None:
    """Version 1: jobs, events, idempotency keys."""
    METADATA.create_all(connection, tables=[JOBS, EVENTS, IDEMPOTENCY])


JOB_SCHEMA = Schema("job", (_create_first_tables,))
