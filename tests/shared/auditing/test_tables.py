"""The table refuses what would change it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shared.auditing.tables import AUDIT_SCHEMA
from shared.database import missing_steps
from tests.shared.auditing.conftest import OpenLog, make_event

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer

CHANGES = ("UPDATE audit_events SET content = 'x'", "DELETE FROM audit_events", "DELETE FROM audit_events WHERE sequence = 1")


def refuse_changes(open_log: OpenLog, url: str, changes: tuple[str, ...]) -> None:
    log = open_log(url)
    log.append([make_event()])
    for change in changes:
        with pytest.raises(DBAPIError, match="never changed or removed"), log._database.writing() as connection:
            connection.execute(text(change))
    assert [event.sequence for event in log.read()] == [1]
    assert missing_steps(log._database.engine, AUDIT_SCHEMA) == 0


def test_rows_in_sqlite_stay_as_they_are(open_log: OpenLog, log_url: str) -> None:
    refuse_changes(open_log, log_url, CHANGES)


@pytest.mark.server
def test_rows_in_postgresql_stay_as_they_are(open_log: OpenLog, postgres_server: PostgresServer) -> None:
    refuse_changes(open_log, postgres_server.new_database(), (*CHANGES, "TRUNCATE audit_events"))
