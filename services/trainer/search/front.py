"""Which points no other dominates, how they rank, and how much they dominate together.

N points, K objectives; a loss is an objective so that less is better.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.trainer.search.rules import Rules
from services.trainer.search.trial import Trial

MARGIN: Final = 0.1  # of the span, by which the reference point lies beyond the worst: the ends of a front count too

Floats = NDArray[np.float64]


# ---------------------------------------------------------------- points


def dominated(losses_NK: Floats) -> NDArray[np.bool_]:
    """Whether some other point is nowhere worse and somewhere better."""
    no_worse_NN = (losses_NK[:, None] <= losses_NK[None]).all(2)
    better_NN = (losses_NK[:, None] < losses_NK[None]).any(2)
    return np.asarray((no_worse_NN & better_NN).any(0))


def ranks(losses_NK: Floats) -> NDArray[np.int64]:
    """0 for points that none dominates, 1 for those that only points of rank 0 dominate, and so on (Deb et al. 2002)."""
    rank_N = np.full(len(losses_NK), -1, dtype=np.int64)
    level = 0
    while (left := np.flatnonzero(rank_N < 0)).size:
        rank_N[left[~dominated(losses_NK[left])]] = level
        level += 1
    return rank_N


def crowding(losses_NK: Floats) -> Floats:
    """How far a point's neighbours lie apart, summed over objectives scaled to their span; infinite at an end (Deb et al. 2002)."""
    distance_N = np.zeros(len(losses_NK))
    for loss_N in losses_NK.T:
        order = np.argsort(loss_N, kind="stable")
        distance_N[order[[0, -1]]] = np.inf
        if (span := float(np.ptp(loss_N))) > 0:
            distance_N[order[1:-1]] += (loss_N[order[2:]] - loss_N[order[:-2]]) / span
    return distance_N


def hypervolume(losses_NK: Floats, reference_K: Floats) -> float:
    """The exact volume between points and a reference point: slices along the last objective, each measured in the others."""
    inside_NK = losses_NK[(losses_NK < reference_K).all(1)]
    if not len(inside_NK):
        return 0.0
    if inside_NK.shape[1] == 1:
        return float(reference_K[0] - inside_NK.min())
    if inside_NK.shape[1] == 2:
        return _area(inside_NK, reference_K)
    inside_NK = inside_NK[~dominated(inside_NK)]
    inside_NK = inside_NK[np.argsort(inside_NK[:, -1], kind="stable")]
    heights_N = np.diff(np.append(inside_NK[:, -1], reference_K[-1]))
    return sum(
        float(height) * hypervolume(inside_NK[: last + 1, :-1], reference_K[:-1]) for last, height in enumerate(heights_N) if height > 0
    )


def _area(losses_N2: Floats, reference_2: Floats) -> float:
    """The area under a staircase, each step as high as the lowest point so far lies below the reference."""
    across_N, up_N = losses_N2[np.argsort(losses_N2[:, 0], kind="stable")].T
    return float(np.diff(across_N, append=reference_2[0]) @ (reference_2[1] - np.minimum.accumulate(up_N)))


def gain(point_K: Floats, losses_NK: Floats, reference_K: Floats) -> float:
    """How much a point adds to the hypervolume of others: its own box without what they dominate of it (While et al. 2012)."""
    own = float((reference_K - point_K).clip(min=0.0).prod())
    return max(0.0, own - hypervolume(np.maximum(losses_NK, point_K), reference_K))


# ---------------------------------------------------------------- trials


@dataclass(frozen=True)
class Box:
    """What hypervolumes are shares of: from the best of every objective to somewhat beyond the worst."""

    ideal_K: Floats
    reference_K: Floats

    @classmethod
    def around(cls, losses_NK: Floats) -> Box:
        """Around all these points: the reference point lies a tenth of the span beyond the worst of every objective."""
        best_K, worst_K = losses_NK.min(0), losses_NK.max(0)
        span_K = np.where(worst_K > best_K, worst_K - best_K, 1.0)  # one value alone has no span; any does
        return cls(best_K, worst_K + MARGIN * span_K)

    def share(self, losses_NK: Floats) -> float:
        """How much of the box points dominate, from 0 to 1."""
        return hypervolume(self.scaled(losses_NK), np.ones(len(self.reference_K)))

    def scaled(self, losses_NK: Floats) -> Floats:
        """Points where the box goes from 0 to 1; what is better than its ideal counts as that."""
        return np.asarray(((losses_NK - self.ideal_K) / (self.reference_K - self.ideal_K)).clip(min=0.0))


def eligible(trials: Iterable[Trial], rules: Rules) -> list[Trial]:
    """Trials that came to their end and keep all bounds."""
    return [trial for trial in trials if trial.state == "succeeded" and rules.keeps_bounds(trial.figures())]


def losses_of(trials: Sequence[Trial], rules: Rules) -> Floats:
    """The losses of trials that came to their end."""
    return np.array([rules.losses(trial.figures()) for trial in trials], dtype=np.float64).reshape(len(trials), len(rules.objectives))


def front(trials: Iterable[Trial], rules: Rules) -> list[Trial]:
    """The eligible trials that no other dominates, by the first objective; of equal points all."""
    able = eligible(trials, rules)
    losses_NK = losses_of(able, rules)
    best = [trial for trial, beaten in zip(able, dominated(losses_NK), strict=True) if not beaten]
    return sorted(best, key=lambda trial: (rules.losses(trial.figures()), trial.number))


def hypervolume_over_steps(trials: Sequence[Trial], rules: Rules, box: Box | None = None) -> list[tuple[int, float]]:
    """After each trial that is over, in the order of their numbers: all training steps so far, and the share of the box dominated.

    Without a box, the one around all eligible trials; to compare searches, give them one box.
    """
    over = sorted((trial for trial in trials if trial.state != "running"), key=lambda trial: trial.number)
    able = eligible(over, rules)
    box = box or Box.around(losses_of(able, rules)) if able else None
    places = {} if box is None else dict(zip((trial.number for trial in able), box.scaled(losses_of(able, rules)), strict=True))
    front_NK, one_K = np.empty((0, len(rules.objectives))), np.ones(len(rules.objectives))
    curve: list[tuple[int, float]] = []
    steps, share = 0, 0.0
    for trial in over:
        steps += trial.steps
        if (place_K := places.get(trial.number)) is not None:
            share += gain(place_K, front_NK, one_K)
            front_NK = np.vstack([front_NK, place_K])
            front_NK = front_NK[~dominated(front_NK)]
        curve.append((steps, share))
    return curve
