from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from services.trainer.search.importance import FEWEST, importance
from services.trainer.search.rules import Rules
from services.trainer.search.space import Choice, Space
from services.trainer.search.trial import Trial
from tests.services.trainer.search.toy import DIRECTIONS, MODULES, ended, spec_of

RATES = {"low": 1e-4, "high": 1e-3, "points": 3}


def found(trials: list[Trial], modules: int = 3, **told: Any) -> dict[str, Any]:
    spec = spec_of(**told)
    return importance(Space.of(spec, MODULES[:modules]), Rules.of(spec, DIRECTIONS), trials)


def every_choice() -> list[Choice]:
    space = Space.of(spec_of(learning_rate=RATES), MODULES[:3])
    return [
        Choice(kind="svdiff", mask=list(mask), learning_rate=rate) for mask in product((0, 1), repeat=3) for rate in space.rates["svdiff"]
    ]


def test_what_alone_decides_an_objective_has_all_of_its_variance() -> None:
    trials = [
        ended(number, choice, {"memorization": choice.mask[1], "finding_agreement": float(np.log10(choice.learning_rate))})
        for number, choice in enumerate(every_choice())
    ]
    told = found(trials, learning_rate=RATES)
    assert told["reason"] is None
    assert told["objectives"]["memorization"][MODULES[1]] == pytest.approx(1.0)
    assert told["objectives"]["finding_agreement"]["learning_rate"] == pytest.approx(1.0)
    assert set(told["objectives"]["memorization"]) == {"learning_rate", *MODULES[:3]}


def test_shares_go_with_the_squares_of_effects() -> None:
    values = {"finding_agreement": 0.5}
    trials = [
        ended(number, choice, values | {"memorization": 2 * choice.mask[0] + choice.mask[2]})
        for number, choice in enumerate(every_choice())
    ]
    told = found(trials, learning_rate=RATES)
    assert told["objectives"]["memorization"][MODULES[0]] == pytest.approx(0.8, abs=0.1)
    assert told["objectives"]["memorization"][MODULES[2]] == pytest.approx(0.2, abs=0.1)
    assert told["reason"] == "all trials have the same finding_agreement"
    assert "finding_agreement" not in told["objectives"]


def test_few_trials_tell_nothing_but_what_is_missing() -> None:
    trials = [
        ended(number, choice, {"memorization": number, "finding_agreement": number})
        for number, choice in enumerate(every_choice()[: FEWEST - 1])
    ]
    assert found(trials) == {
        "objectives": {},
        "reason": f"{FEWEST} finished trials are needed to tell what matters; there are {FEWEST - 1}",
    }


def test_of_several_kinds_the_kind_is_weighed_too() -> None:
    loras = [choice.model_copy(update={"kind": "lora", "ranks": choice.mask}) for choice in every_choice()[3:]]
    trials = [
        ended(number, choice, {"memorization": float(choice.kind == "lora"), "finding_agreement": 0.5})
        for number, choice in enumerate([*loras, *every_choice()])
    ]
    weights = found(trials, space="auto", ranks=[1, 2], learning_rate=RATES)["objectives"]["memorization"]
    assert weights["kind"] == pytest.approx(1.0)
    assert set(weights) == {"kind", "learning_rate", *MODULES[:3]}


def test_a_lora_is_weighed_by_its_ranks() -> None:
    choices = [
        Choice(kind="lora", mask=[1, 1 if rank else 0], ranks=[other, rank], learning_rate=1e-4)
        for other in (2, 4, 8)
        for rank in (0, 2, 4, 8)
    ]
    trials = [
        ended(number, choice, {"memorization": (choice.ranks or [0])[0], "finding_agreement": 0.5}) for number, choice in enumerate(choices)
    ]
    weights = found(trials, modules=2, space="lora", learning_rate=RATES)["objectives"]["memorization"]
    assert weights[MODULES[0]] == pytest.approx(1.0, abs=0.02)
