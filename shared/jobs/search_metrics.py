"""What running searches report, as metrics: children hold no registry, they tell their record, and the service tells Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from prometheus_client import Gauge

PREFIX: Final = "trials_"  # of what a search reports: how many of its trials are in the state that follows
STATES: Final = ("running", "succeeded", "pruned", "failed", "cancelled")

SEARCH_TRIALS = Gauge("lethe_search_trials", "Trials of a running search by state, as last reported.", ["slot", "state"])


def observe_search(slot: int, reported: Mapping[str, Any]) -> None:
    """Account for what a job reported; jobs that do not search report none of it."""
    for state in STATES:
        if (count := reported.get(PREFIX + state)) is not None:
            SEARCH_TRIALS.labels(slot=str(slot), state=state).set(count)


def forget_search(slot: int) -> None:
    """A slot whose job ended has no trials."""
    for state in STATES:
        with suppress(KeyError):  # which had none
            SEARCH_TRIALS.remove(str(slot), state)
