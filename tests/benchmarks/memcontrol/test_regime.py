"""What all contenders have in common."""

from __future__ import annotations

import pytest

from benchmarks.memcontrol.regime import FULL, QUICK, Regime


@pytest.mark.parametrize("regime", [FULL, QUICK])
def test_rates_lie_between_the_lowest_and_the_highest_of_the_kind(regime: Regime) -> None:
    assert regime.budget == regime.trials * regime.steps
    for kind, rates in regime.searched_rates().items():
        low, high = getattr(regime.rates, kind)
        assert (rates.rates[0], rates.rates[-1], len(rates.rates)) == (low, high, regime.points)
    assert 0 < regime.rung * regime.steps < regime.steps


def test_what_is_looked_at_again_has_other_noises_and_no_less_effort() -> None:
    searched, again = FULL.effort(3), FULL.effort(3, held_out=True)
    assert searched.seed != again.seed
    assert again.images_per_canary >= searched.images_per_canary
    assert again.control_prompts >= searched.control_prompts
    assert (again.guidance_scale, again.sampling_steps) == (searched.guidance_scale, searched.sampling_steps)
