"""Which point of a front is the recommended one, by a rule that is said in words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from services.trainer.search.front import front, losses_of
from services.trainer.search.rules import Rules
from services.trainer.search.search_spec import QualityWithin
from services.trainer.search.trial import Trial
from shared.memorization.rewards.names import MEMORIZATION, QUALITY


@dataclass(frozen=True)
class Recommended:
    """A point, and why it."""

    trial: Trial
    rule: str


def recommend(trials: Sequence[Trial], rules: Rules) -> Recommended | None:
    """The recommended point of these trials' front; None while nothing is on it."""
    points = front(trials, rules)
    if not points:
        return None
    if len(rules.objectives) == 1:
        return Recommended(points[0], f"the best {next(iter(rules.objectives))}")
    if isinstance(rules.recommend, QualityWithin):
        return _least_memorizing(points, rules, rules.recommend.share)
    return _knee(points, rules)


def _knee(points: Sequence[Trial], rules: Rules) -> Recommended:
    """The point nearest to the ideal one."""
    losses_NK = losses_of(points, rules)
    span_K = np.ptp(losses_NK, axis=0)
    away_NK = (losses_NK - losses_NK.min(0)) / np.where(span_K > 0, span_K, 1.0)
    nearest = points[int(np.argmin((away_NK**2).sum(1)))]
    return Recommended(nearest, f"the point nearest to the best of {' and '.join(rules.objectives)}, each scaled to the front's span")


def _least_memorizing(points: Sequence[Trial], rules: Rules, share: float) -> Recommended:
    """Of the points whose quality is near the front's best, the one that memorizes least."""
    names = list(rules.objectives)
    quality = _first(names, QUALITY) or next((name for name in names if name not in MEMORIZATION), names[-1])
    others = [name for name in names if name != quality]
    memorization = _first(others, MEMORIZATION) or others[0]
    losses_NK = losses_of(points, rules)
    quality_N, memorization_N = losses_NK[:, names.index(quality)], losses_NK[:, names.index(memorization)]
    near = np.flatnonzero(quality_N <= quality_N.min() + share * abs(quality_N.min()))
    chosen = points[int(near[np.lexsort((quality_N[near], memorization_N[near]))[0]])]
    return Recommended(chosen, f"the best {memorization} among the points whose {quality} is within {share:.0%} of the best")


def _first(names: Sequence[str], known: Collection[str]) -> str | None:
    return next((name for name in names if name in known), None)
