"""Loss curves of bounded size."""

from __future__ import annotations

import json

import numpy as np
import pytest

from services.trainer.loss_curve import MAX_POINTS, LossCurve


def test_short_curve_has_every_step() -> None:
    curve = LossCurve()
    curve.add([3.0, 2.0])
    curve.add([1.0])
    assert curve.points() == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert curve.steps == 3


@pytest.mark.parametrize("steps", [MAX_POINTS - 1, MAX_POINTS, 1601, 12_345])
def test_long_curve_is_thinned_to_means(steps: int) -> None:
    losses = np.random.default_rng(0).random(steps).tolist()
    curve = LossCurve()
    for start in range(0, steps, 37):
        curve.add(losses[start : start + 37])
    points = curve.points()
    assert len(points) <= MAX_POINTS
    assert len(points) >= min(steps, MAX_POINTS // 2)
    assert curve.steps == points[-1][0] == steps
    begin = 0
    for end, mean in points:
        assert mean == pytest.approx(np.mean(losses[begin:end]))
        begin = end


def test_curve_goes_on_from_its_facts() -> None:
    losses = np.random.default_rng(1).random(1500).tolist()
    whole, first = LossCurve(), LossCurve()
    whole.add(losses)
    first.add(losses[:777])
    second = LossCurve(**json.loads(json.dumps(first.facts())))
    second.add(losses[777:])
    assert second.points() == whole.points()
