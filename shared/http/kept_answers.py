"""Answers kept under an Idempotency-Key in SQL: a key is taken while its request runs, holds the answer afterwards, and expires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Column, Connection, LargeBinary, MetaData, Row, String, Table, delete, insert, select, update
from sqlalchemy.exc import IntegrityError as SqlIntegrityError

from shared.database import Database, Schema, UtcMicroseconds
from shared.jobs.idempotency import KEPT_FOR, IdempotencyInFlightError, IdempotencyKey, IdempotencyKeyReusedError, canonical_digest
from shared.jobs.leases import LEASE, new_owner, owner_is_gone

# More would make the database slow; a repetition draws it anew. `"output": "stored"` answers in kilobytes.
MAX_ANSWER_BYTES: Final = 33_554_432

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
        claim = Claim(canonical_digest([key.scope, key.key]), new_owner())
        now = datetime.now(UTC)
        taken = {"owner": claim.owner, "lease_expires": now + self._lease}
        try:
            with self._database.writing() as connection:
                connection.execute(delete(ANSWERS).where(ANSWERS.c.created <= now - KEPT_FOR))
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
        self._change(claim, lease_expires=datetime.now(UTC) + self._lease)

    def keep(self, claim: Claim, body: bytes) -> None:
        """Keep the answer; one that is too large is not kept, and its key is free again."""
        if len(body) > MAX_ANSWER_BYTES:
            self.release(claim)
        else:
            self._change(claim, body=body)

    def release(self, claim: Claim) -> None:
        """Free the key: there is no answer worth keeping."""
        with self._database.writing() as connection:
            connection.execute(delete(ANSWERS).where(ANSWERS.c.id == claim.id, ANSWERS.c.owner == claim.owner))

    def _change(self, claim: Claim, **values: object) -> None:
        """Change what a claim still holds."""
        with self._database.writing() as connection:
            connection.execute(update(ANSWERS).where(ANSWERS.c.id == claim.id, ANSWERS.c.owner == claim.owner).values(values))


def _require_same_body(row: Row[Sequence[object]], key: IdempotencyKey) -> None:
    """Refuse a key that stands for something else."""
    if row.fingerprint != key.fingerprint:
        raise IdempotencyKeyReusedError("This Idempotency-Key was used before with another body; send a new key.")


def _in_flight() -> IdempotencyInFlightError:
    """The error while the first request runs."""
    return IdempotencyInFlightError("The first request with this Idempotency-Key still runs; ask again with the same key and body.")
