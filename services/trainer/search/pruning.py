"""Which trials are ended on their way: successive halving at rungs, and by non-domination where there are several objectives.

A trial is held against those that were measured at the same rung before it, whether they went on or not (Li et al. 2020, ASHA).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from services.trainer.search.front import Floats, crowding, ranks
from services.trainer.search.rules import excess_spans, figures, losses, violations
from services.trainer.search.search_spec import Constraint, Pruning
from shared.memorization.rewards.names import Direction
from shared.memorization.statistics import Estimate

Measured = Mapping[str, Estimate]


def goes_on(
    values: Measured,
    others_at_rung: Sequence[Measured],
    directions: Mapping[str, Direction],
    rule: Pruning,
    constraints: Sequence[Constraint] = (),
) -> bool:
    """Whether a trial is among those kept of all that reached its rung, or no other dominates it; `directions` are the objectives'.

    Nothing is ended until enough others were seen there. Of equal trials neither is behind the other. One with a low rate lags in
    quality at a rung, and memorizes least there: where it ends is not known yet.
    """
    if len(others_at_rung) < rule.startup:
        return True
    places = _places([figures(each) for each in (values, *others_at_rung)], directions, constraints)
    broken, rank, _ = places[0]
    if broken == 0 and rank == 0:
        return True
    ahead = sum(place < places[0] for place in places[1:])
    return ahead < math.ceil(rule.keep * len(places))


def _places(
    points: Sequence[Mapping[str, float]], directions: Mapping[str, Direction], constraints: Sequence[Constraint]
) -> list[tuple[float, float, float]]:
    """Lower is better: whether and how far bounds are broken, then the non-dominated rank, then how alone a point stands in it."""
    broken_N = _broken(points, constraints)
    losses_NK = np.array([losses(point, directions) for point in points])
    rank_N, alone_N = np.zeros(len(points)), np.zeros(len(points))
    sound = np.flatnonzero(broken_N == 0)  # what breaks bounds is behind, by how far alone
    rank_N[sound] = ranks(losses_NK[sound])
    for rank in np.unique(rank_N[sound]):
        peers = sound[rank_N[sound] == rank]
        alone_N[peers] = crowding(losses_NK[peers])
    return [(float(broken), float(rank), -float(alone)) for broken, rank, alone in zip(broken_N, rank_N, alone_N, strict=True)]


def _broken(points: Sequence[Mapping[str, float]], constraints: Sequence[Constraint]) -> Floats:
    """How far each point breaks its bounds, 0 where it keeps them; every bound's excess counts in spans of its own, whatever its unit."""
    spans = excess_spans(points, constraints)
    return np.array([sum(max(0.0, excess) / spans[name] for name, excess in violations(point, constraints).items()) for point in points])
