"""Audit logs to write to and to tamper with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from shared.auditing import AuditEvent, AuditLog
from shared.auditing.tables import AUDIT_SCHEMA
from shared.database import Database, prepare_schema

KEY = bytes(range(32))
OpenLog = Callable[[str], AuditLog]


def make_event(**told: Any) -> AuditEvent:
    """An event, with what the test says of it."""
    known: dict[str, Any] = {
        "moment": datetime(2026, 11, 1, 12, 0, 0, 250, tzinfo=UTC),
        "service": "sampler",
        "action": "generate",
        "outcome": "done",
        "caller": "ward-a",
        "caller_kind": "key",
        "route": "POST /v1/generations",
    }
    return AuditEvent(**(known | told))


@pytest.fixture
def open_log() -> Iterator[OpenLog]:
    """Opens the log of a database URL, as one service of several would."""
    with ExitStack() as opened:

        def open_one(url: str) -> AuditLog:
            database = Database(url)
            prepare_schema(database.engine, AUDIT_SCHEMA)
            log = AuditLog(database, key=KEY)
            opened.callback(log.close)
            return log

        yield open_one


@pytest.fixture
def log_url(tmp_path: Path) -> str:
    """Where the log of a test lies."""
    return f"sqlite:///{tmp_path / 'lethe.db'}"


@pytest.fixture
def log(open_log: OpenLog, log_url: str) -> AuditLog:
    """An empty log."""
    return open_log(log_url)


@pytest.fixture
def tamper(log_url: str) -> Iterator[Callable[..., None]]:
    """Changes the table as its owner can, guards removed; the key is not in the database."""
    database = Database(log_url)

    def change(*statements: str, **values: Any) -> None:
        with database.writing() as connection:
            for verb in ("update", "delete"):
                connection.execute(text(f"DROP TRIGGER IF EXISTS audit_events_no_{verb}"))
            for statement in statements:
                connection.execute(text(statement), values)

    yield change
    database.close()
