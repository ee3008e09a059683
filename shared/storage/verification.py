"""Comparing bytes with the digest recorded for them; every mismatch is counted and raised."""

from __future__ import annotations

from typing import Literal, get_args

from prometheus_client import Counter

from shared.errors import IntegrityError

VERIFICATION_FAILURES = Counter(
    "lethe_storage_verification_failures_total",
    "Objects, manifests and cached copies whose bytes did not have the recorded digest.",
    ["kind"],
)
VerifiedKind = Literal["object", "manifest", "cache"]
# All kinds from the start: an increase from nothing to one is none to Prometheus, and the alert would miss the first.
for _kind in get_args(VerifiedKind):
    VERIFICATION_FAILURES.labels(kind=_kind)


def count_failure(kind: VerifiedKind) -> None:
    """Count one mismatch."""
    VERIFICATION_FAILURES.labels(kind=kind).inc()


def integrity_failure(what: str, *, kind: VerifiedKind) -> IntegrityError:
    """Count one mismatch and make its error, for the caller to raise."""
    count_failure(kind)
    return IntegrityError(f"{what} is not what was committed; restore it from a backup or make it again.")


def verify_digest(*, what: str, kind: VerifiedKind, expected: str, actual: str) -> None:
    """Raise IntegrityError, and count it, unless both digests are equal."""
    if actual != expected:
        raise integrity_failure(what, kind=kind)
