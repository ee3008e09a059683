"""Reports of searches become metrics."""

from __future__ import annotations

from typing import get_args

from prometheus_client import REGISTRY

from services.trainer.search.trial import State
from shared.jobs.search_metrics import STATES, forget_search, observe_search


def trials(slot: int, state: str) -> float | None:
    return REGISTRY.get_sample_value("lethe_search_trials", {"slot": str(slot), "state": state})


def test_trials_are_told_by_slot_and_state_until_the_search_ends() -> None:
    observe_search(7, {"trials_running": 2, "trials_pruned": 0, "hypervolume": 0.5})
    observe_search(8, {"loss": 0.5})
    assert [trials(7, state) for state in ("running", "pruned", "failed")] == [2, 0, None]
    assert trials(8, "running") is None
    for _ in range(2):
        forget_search(7)
    assert trials(7, "running") is None


def test_states_are_those_of_trials() -> None:
    assert get_args(State) == STATES
