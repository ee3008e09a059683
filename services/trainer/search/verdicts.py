"""What follows from a trial's figures: whether it goes on from a rung, and at its end whether its model is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.trainer.search.front import dominated
from services.trainer.search.pruning import Measured, goes_on
from services.trainer.search.rules import Figures, Rules


def goes_on_by(rules: Rules, values: Measured, others_at_rung: Sequence[Measured]) -> bool:
    """Whether a trial goes on from a rung at which these others were measured; all do where nothing is pruned."""
    return rules.pruning is None or goes_on(values, others_at_rung, rules.objectives, rules.pruning, rules.constraints)


def is_on_front(rules: Rules, point: Figures, finished: Sequence[Figures]) -> bool:
    """Whether a trial keeps its bounds, and none of those that are over and do so too is better."""
    if not rules.keeps_bounds(point):
        return False
    able = [point, *(other for other in finished if rules.keeps_bounds(other))]
    return not bool(dominated(np.array([rules.losses(each) for each in able]))[0])
