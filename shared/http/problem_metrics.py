"""Problems as metrics: every one that is answered, and among them the requests that were refused before any work was done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import Counter

from shared.http.problems import PROBLEM_KINDS

PROBLEMS = Counter("lethe_problems_total", "Problems answered, by slug.", ["problem"])
REJECTED = Counter("lethe_requests_rejected_total", "Requests refused before any work was done.", ["reason"])

_REASON_OF_SLUG: Final[Mapping[str, str]] = {
    "rate-limited": "quota",
    "limit-exceeded": "limit",
    "saturated": "saturated",
    "payload-too-large": "body",
    "unsupported-media-type": "body",
    "request-timeout": "slow",
    "headers-too-large": "head",
}

# All of them from the start: an increase from nothing to one is none to Prometheus, and alerts would miss the first.
for _slug in PROBLEM_KINDS:
    PROBLEMS.labels(problem=_slug)
for _reason in _REASON_OF_SLUG.values():
    REJECTED.labels(reason=_reason)


def count_problem(slug: str) -> None:
    """Account for one problem that is answered."""
    PROBLEMS.labels(problem=slug).inc()
    reason = _REASON_OF_SLUG.get(slug)
    if reason is not None:
        REJECTED.labels(reason=reason).inc()
