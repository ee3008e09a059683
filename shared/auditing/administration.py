"""Changes that an operator makes from the command line, told in the audit log with the change itself."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import Connection

from shared.auditing.events import AuditEvent
from shared.auditing.log import AuditLog
from shared.telemetry import current_trace_id


def record_administration(log: AuditLog, connection: Connection, *, command: str, resources: Mapping[str, str]) -> None:
    """Write that a command of `lethe` changed these resources, as the last statement of the transaction that changes them."""
    event = AuditEvent(
        moment=datetime.now(UTC),
        service="cli",
        action="admin",
        outcome="done",
        caller=_operator(),
        caller_kind="operator",
        route=command,
        resources=resources,
        trace_id=current_trace_id(),
    )
    log.append_within(connection, [event])


def _operator() -> str:
    """The user of the operating system who runs the command; containers need not have a name for theirs."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"
