"""Moments survive both databases to the microsecond."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from shared.database import UtcMicroseconds, open_engine


def test_moment_survives_to_the_microsecond() -> None:
    kind = UtcMicroseconds()
    dialect = open_engine("sqlite://").dialect
    moment = datetime(2026, 11, 22, 13, 5, 7, 123457, tzinfo=UTC)
    stored = kind.process_bind_param(moment, dialect)
    assert stored == 1795352707123457
    assert kind.process_result_value(stored, dialect) == moment
    assert kind.process_result_value(stored, dialect) - moment == timedelta(0)  # type: ignore[operator]
    assert kind.process_bind_param(None, dialect) is None
