"""Answers kept under an Idempotency-Key in SQL: a key is taken while its request runs, holds the answer afterwards, and expires."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    and_,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError as SqlIntegrityError

from shared.database import Database, Schema, UtcMicroseconds
from shared.errors import UnavailableError
from shared.jobs.idempotency import KEPT_FOR, IdempotencyInFlightError, IdempotencyKey, IdempotencyKeyReusedError, canonical_digest
from shared.jobs.leases import LEASE, new_owner, owner_is_gone
from shared.telemetry import get_logger

# More would make the database slow; a repetition draws it anew. `"output": "stored"` answers in kilobytes.
MAX_ANSWER_BYTES: Final = 33_554_432
# What one caller's answers of two days may take; beyond it they are given, but not kept.
MAX_HELD_BYTES: Final = 268_435_456
# So often answers past their time are deleted, whether anybody asks or not.
_FORGETTING_SECONDS: Final = 600.0
# An id begins with so many characters of its holder's digest, so that what one caller holds lies side by side in the primary key.
_HOLDER_LENGTH: Final = 16

_LOG = get_logger(__name__)

METADATA: Final = MetaData()
ANSWERS: Final = Table(
    "kept_answers",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("owner", String(255), nullable=False),
    Column("lease_expires", UtcMicroseconds, nullable=False),
    Column("body", LargeBinary),
    Column("created", UtcMicroseconds, nullable=False, index=True),
)


def _create_table(connection: Connection) -> None:
    """Version 1."""
    METADATA.create_all(connection, tables=[ANSWERS])


ANSWER_SCHEMA: Final = Schema("answer", (_create_table,))


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to do what a key stands for, until it is kept, released or its lease runs out."""

    id: str
    owner: str


class KeptAnswers:
    """The kept answers of all services behind one database; safe to share between threads and replicas."""

    def __init__(self, database: Database, *, lease: timedelta = LEASE) -> None:
        self._database = database
        self._lease = lease

    def claim(self, key: IdempotencyKey) -> Claim | bytes:
        """The answer that is kept under a key, or the right to make it.

        IdempotencyKeyReusedError when the key came with another body, IdempotencyInFlightError while the first request with it runs.
        """
        claim = Claim(_row_id(key), new_owner())
        now = datetime.now(UTC)
        taken = {"owner": claim.owner, "lease_expires": now + self._lease}
        try:
            with self._database.writing() as connection:
                _forget_expired(connection, now)
                row = connection.execute(select(ANSWERS).where(ANSWERS.c.id == claim.id).with_for_update()).one_or_none()
                if row is None:
                    connection.execute(insert(ANSWERS).values(id=claim.id, fingerprint=key.fingerprint, created=now, **taken))
                    return claim
                _require_same_body(row, key)
                if row.body is not None:
                    return bytes(row.body)
                if row.lease_expires > now and not owner_is_gone(row.owner):
                    raise _in_flight()
                connection.execute(update(ANSWERS).where(ANSWERS.c.id == claim.id).values(taken))
                return claim
        except SqlIntegrityError as error:  # another request with the same key was faster by a moment
            raise _in_flight() from error

    def renew(self, claim: Claim) -> None:
        """Keep the right for another lease."""
        with self._database.writing() as connection:
            connection.execute(update(ANSWERS).where(_held(claim)).values(lease_expires=datetime.now(UTC) + self._lease))

    def keep(self, claim: Claim, body: bytes) -> None:
        """Keep the answer; one that is too large, alone or with its caller's others, is not kept, and its key is free again."""
        with self._database.writing() as connection:
            held = _held(claim)
            if len(body) > MAX_ANSWER_BYTES or _held_bytes(connection, claim) + len(body) > MAX_HELD_BYTES:
                connection.execute(delete(ANSWERS).where(held))
            else:
                connection.execute(update(ANSWERS).where(held).values(body=body))

    def release(self, claim: Claim) -> None:
        """Free the key: there is no answer worth keeping."""
        with self._database.writing() as connection:
            connection.execute(delete(ANSWERS).where(_held(claim)))

    def forget_expired(self) -> None:
        """Delete the answers past their time."""
        with self._database.writing() as connection:
            _forget_expired(connection, datetime.now(UTC))


@asynccontextmanager
async def forgetting(database: Database) -> AsyncIterator[None]:
    """Delete answers past their time again and again while the block lasts."""
    answers = KeptAnswers(database)

    async def forget() -> None:
        """Again and again; where the database is away, the next time."""
        while True:
            await asyncio.sleep(_FORGETTING_SECONDS)
            try:
                await asyncio.to_thread(answers.forget_expired)
            except UnavailableError as error:
                _LOG.warning("kept answers past their time were not deleted", exc_info=error)

    task = asyncio.create_task(forget(), name="forgetting-answers")
    try:
        yield
    finally:
        task.cancel()


def _row_id(key: IdempotencyKey) -> str:
    """The id of a key's row."""
    return canonical_digest(key.holder)[:_HOLDER_LENGTH] + canonical_digest([key.scope, key.key])[_HOLDER_LENGTH:]


def _held(claim: Claim) -> ColumnElement[bool]:
    """The row of a claim, unless it was lost."""
    return and_(ANSWERS.c.id == claim.id, ANSWERS.c.owner == claim.owner)


def _held_bytes(connection: Connection, claim: Claim) -> int:
    """How large the kept answers of a claim's caller are together."""
    first = claim.id[:_HOLDER_LENGTH]
    of_the_same = and_(ANSWERS.c.id >= first, ANSWERS.c.id < first + "g")  # the letter after those of digests
    return connection.scalar(select(func.coalesce(func.sum(func.length(ANSWERS.c.body)), 0)).where(of_the_same)) or 0


def _forget_expired(connection: Connection, now: datetime) -> None:
    """Delete the answers past their time."""
    connection.execute(delete(ANSWERS).where(ANSWERS.c.created <= now - KEPT_FOR))


def _require_same_body(row: Row[Sequence[object]], key: IdempotencyKey) -> None:
    """Refuse a key that stands for something else."""
    if row.fingerprint != key.fingerprint:
        raise IdempotencyKeyReusedError("This Idempotency-Key was used before with another body; send a new key.")


def _in_flight() -> IdempotencyInFlightError:
    """The error while the first request runs."""
    return IdempotencyInFlightError("The first request with this Idempotency-Key still runs; ask again with the same key and body.")
