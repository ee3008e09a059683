"""Operations are counted by how they ended."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from shared.errors import AlreadyExistsError, IntegrityError, NotFoundError, ScreenerUnavailableError, UnavailableError
from shared.storage.metrics import measured, record_capabilities


def count(op: str, outcome: str) -> float:
    return REGISTRY.get_sample_value("lethe_storage_operation_duration_seconds_count", {"op": op, "outcome": outcome}) or 0.0


def test_quiet_operation_is_ok() -> None:
    with measured("test_quiet"):
        pass
    assert count("test_quiet", "ok") == 1.0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (NotFoundError("x"), "not_found"),
        (AlreadyExistsError("x"), "already_exists"),
        (UnavailableError("x"), "unavailable"),
        (ScreenerUnavailableError("x"), "unavailable"),
        (IntegrityError("x"), "integrity"),
        (RuntimeError("x"), "error"),
        (KeyboardInterrupt(), "error"),
    ],
)
def test_failed_operation_is_counted_by_its_error(error: BaseException, outcome: str) -> None:
    op = f"test_{type(error).__name__}"
    with pytest.raises(type(error)), measured(op):
        raise error
    assert count(op, outcome) == 1.0
    assert count(op, "ok") == 0.0


def test_finding_of_a_probe_is_published_both_ways() -> None:
    def value(present: str) -> float | None:
        labels = {"store": "test", "capability": "conditional_put", "present": present}
        return REGISTRY.get_sample_value("lethe_storage_capability_info", labels)

    record_capabilities("test", {"conditional_put": True})
    assert (value("true"), value("false")) == (1.0, 0.0)
    record_capabilities("test", {"conditional_put": False})
    assert (value("true"), value("false")) == (0.0, 1.0)
