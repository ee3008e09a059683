from __future__ import annotations

import json
from typing import Any

import pytest

from services.trainer.search.loop import SearchLoop
from services.trainer.search.space import Space
from tests.services.trainer.search.toy import DIRECTIONS, MODULES, ended, estimates, searched, spec_of, toy_rewards


def loop_of(*, max_steps: int | None = None, **told: Any) -> SearchLoop:
    spec = spec_of(**told)
    return SearchLoop(Space.of(spec, MODULES), spec, DIRECTIONS, max_steps=max_steps)


def test_numbers_rise_from_0_until_the_trials_are_used_up() -> None:
    loop = loop_of(trials=5)
    assert [trial.number for trial in searched(loop, toy_rewards(6))] == [0, 1, 2, 3, 4]
    assert loop.next_trial() is None
    assert {trial.state for trial in loop.trials} == {"succeeded"}


def test_steps_bound_a_search_whatever_its_trials_took() -> None:
    loop = loop_of(trials=1000, max_steps=250)  # a trial takes 100
    first, second = loop.next_trial(), loop.next_trial()
    assert first is not None
    assert second is not None
    loop.settle(first.model_copy(update={"state": "pruned", "steps": 20}))
    third = loop.next_trial()
    assert third is not None
    assert loop.next_trial() is not None  # 220 of 250 are spoken for
    assert loop.next_trial() is None
    loop.settle(second.model_copy(update={"state": "pruned", "steps": 10}))
    assert loop.next_trial() is not None


def test_a_trial_is_judged_against_those_at_the_same_rung() -> None:
    loop = loop_of(trials=9, pruning={"rungs": [0.1, 0.3], "keep": 0.5, "startup": 2})
    for number, agreement in enumerate([0.9, 0.8]):
        assert loop.next_trial() is not None
        assert loop.verdict(number, 10, estimates({"memorization": 0.1, "finding_agreement": agreement}))
    poor = estimates({"memorization": 0.2, "finding_agreement": 0.1})
    assert loop.next_trial() is not None
    assert loop.verdict(2, 30, poor)  # nobody else was measured there
    assert not loop.verdict(2, 10, poor)
    assert [rung.step for rung in loop.trials[2].rungs] == [30, 10]
    assert not loop.verdict(2, 10, poor)
    assert [rung.step for rung in loop.trials[2].rungs] == [30, 10]


def test_without_pruning_every_trial_goes_on() -> None:
    loop = loop_of(trials=9, pruning=None)
    assert all(loop.next_trial() is not None for _ in range(9))
    assert all(loop.verdict(number, 10, estimates({"memorization": number, "finding_agreement": -number})) for number in range(9))


def test_what_was_never_given_out_cannot_be_settled() -> None:
    loop = loop_of()
    trial = loop.next_trial()
    assert trial is not None
    with pytest.raises(ValueError, match="number 1 was never given out"):
        loop.settle(ended(1, trial.choice, {"memorization": 0.1, "finding_agreement": 0.1}))


def test_the_summary_is_of_the_trials_so_far() -> None:
    loop = loop_of(trials=4)
    searched(loop, toy_rewards(6), up_to=3)
    loop.next_trial()
    assert loop.summary()["trials"] == {"running": 1, "succeeded": 3, "pruned": 0, "failed": 0, "cancelled": 0}
    assert json.loads(json.dumps(loop.summary(), allow_nan=False)) == loop.summary()
