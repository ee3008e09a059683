"""Connections to PostgreSQL that end a server's silence: one that is frozen, or died behind a proxy, never says that it will not answer."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection

AnswerT = TypeVar("AnswerT")

# Twice what a statement may wait for a lock; those of services take milliseconds.
ANSWER_SECONDS: Final = 30.0


class BoundedConnection(psycopg.Connection[Any]):
    """Closes itself where an answer takes longer than `answer_seconds`, since nobody knows what the server still does for it."""

    answer_seconds: float | None = ANSWER_SECONDS

    def wait(self, gen: Generator[Any, Any, AnswerT], interval: float = 0.1, timeout: float | None = None) -> AnswerT:
        """Wait for an answer; psycopg's OperationalError where none comes."""
        try:
            return super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:  # it was given up, not answered
                self.close()
            raise


@contextmanager
def unhurried(connection: Connection) -> Iterator[None]:
    """Let the statements of a block take the time that they take, on PostgreSQL; a change of large tables needs it."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, BoundedConnection):
        yield
        return
    driver.answer_seconds = None
    try:
        yield
    finally:
        del driver.answer_seconds
