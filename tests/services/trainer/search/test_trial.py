from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from services.trainer.search.space import Choice
from services.trainer.search.trial import Rung, Trial
from shared.memorization.statistics import Estimate

CHOICE = Choice(kind="lora", mask=[1, 0], ranks=[4, 0], learning_rate=1e-4)


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 1, high=value + 1, n=7)


def test_a_trial_comes_back_from_json() -> None:
    trial = Trial(
        number=3,
        choice=CHOICE,
        state="succeeded",
        rungs=[Rung(step=10, values={"fid": estimate(2.0)}), Rung(step=100, values={"fid": estimate(1.5)})],
        values={"fid": estimate(1.5)},
        model="mdl_1t0003",
        trainable_parameters=12,
        trainable_fraction=0.1,
        steps=100,
        seconds=1.5,
    )
    assert Trial.model_validate_json(trial.model_dump_json()) == trial
    assert Trial.model_validate(trial.model_dump(mode="json")) == trial
    assert trial.figures() == {"fid": 1.5}


def test_a_trial_without_an_end_has_no_figures() -> None:
    assert Trial(number=0, choice=CHOICE, rungs=[Rung(step=10, values={"fid": estimate(2.0)})]).figures() == {}


def test_figures_are_numbers() -> None:
    with pytest.raises(ValidationError, match="finite"):
        Trial(number=0, choice=CHOICE, values={"fid": estimate(math.nan)})
