"""What an operator changes from the command line is told with the change."""

from __future__ import annotations

import os
import pwd

import pytest

from shared.auditing import AuditLog, administration, record_administration
from shared.database import Database


def test_change_is_told_with_its_transaction(log: AuditLog, log_url: str) -> None:
    database = Database(log_url)
    with database.writing() as connection:
        record_administration(log, connection, command="lethe key revoke", resources={"key": "lk_abc"})
    with database.writing() as connection:
        record_administration(log, connection, command="lethe key revoke", resources={"key": "lk_def"})
        connection.rollback()
    database.close()
    (event,) = [chained.as_json()["event"] for chained in log.read()]
    assert {name: event[name] for name in ("action", "outcome", "caller", "caller_kind", "route", "resources")} == {
        "action": "admin",
        "outcome": "done",
        "caller": pwd.getpwuid(os.getuid()).pw_name,
        "caller_kind": "operator",
        "route": "lethe key revoke",
        "resources": {"key": "lk_abc"},
    }


def test_operator_without_a_name_is_told_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 3_999_999_999)
    assert administration._operator() == "uid 3999999999"
