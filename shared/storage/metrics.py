"""How long storage operations take and how they end, and what the stores turned out to be capable of."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Gauge, Histogram

from shared.errors import AlreadyExistsError, IntegrityError, LetheError, NotFoundError, UnavailableError

OPERATION_SECONDS = Histogram(
    "lethe_storage_operation_duration_seconds",
    "Duration of one storage operation.",
    ["op", "outcome"],
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60),
)
CAPABILITY_INFO = Gauge(
    "lethe_storage_capability_info",
    "What the start-up probe found a store to be capable of; 1 for the finding that holds.",
    ["store", "capability", "present"],
)
_OUTCOMES: dict[type[LetheError], str] = {
    NotFoundError: "not_found",
    AlreadyExistsError: "already_exists",
    UnavailableError: "unavailable",
    IntegrityError: "integrity",
}


@contextmanager
def measured(op: str) -> Iterator[None]:
    """Time the block as one operation and count how it ended."""
    started = time.perf_counter()
    outcome = "ok"
    try:
        yield
    except BaseException as error:
        outcome = next((name for kind, name in _OUTCOMES.items() if isinstance(error, kind)), "error")
        raise
    finally:
        OPERATION_SECONDS.labels(op=op, outcome=outcome).observe(time.perf_counter() - started)


def record_capabilities(store: str, capabilities: dict[str, bool]) -> None:
    """Publish a probe's findings."""
    for capability, present in capabilities.items():
        CAPABILITY_INFO.labels(store=store, capability=capability, present="true").set(present)
        CAPABILITY_INFO.labels(store=store, capability=capability, present="false").set(not present)
