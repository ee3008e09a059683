"""Whether what was to be shown was shown: each claim with its figures, judged by them and by nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from benchmarks.memcontrol.again import Again
from benchmarks.memcontrol.contenders import FIXED, NSGA2, OBJECTIVES, OURS, SEARCHES
from benchmarks.memcontrol.course import WITHIN, front_of
from benchmarks.memcontrol.summary import Seed, is_dominated, share_to_reach

Outcome = Literal["met", "not met"]

HALF: Final = 0.5


@dataclass(frozen=True)
class Verdict:
    """A claim, what came of it, and by which figures."""

    claim: str
    outcome: Outcome
    figures: str


def verdicts(seeds: Sequence[Seed]) -> list[Verdict]:
    """All claims that the contenders at hand allow to judge."""
    names = seeds[0].courses
    if OURS.name not in names:
        return []
    judged = [_dominates(seeds, fixed.name) for fixed in FIXED if fixed.name in names]
    if NSGA2.name in names:
        judged.append(_fast(seeds))
    judged += [_no_smaller(seeds, search.name) for search in SEARCHES if search != OURS and search.name in names]
    if any(fixed.name in names for fixed in FIXED):
        judged.append(_transfers(seeds))
    return judged


def _dominates(seeds: Sequence[Seed], name: str) -> Verdict:
    """On the measurement that was searched on, every point of the sweep; on the one that nothing was chosen by, the chosen point."""
    searched, again, points, beaten = 0, 0, 0, 0
    for seed in seeds:
        front = [point.losses for point in front_of(seed.courses[OURS.name].finished)]
        sweep = [is_dominated(attempt.losses, front) for attempt in seed.courses[name].finished]
        points, beaten = points + len(sweep), beaten + sum(sweep)
        searched += all(sweep)
        again += is_dominated(_objectives(seed.again[name][0]), map(_objectives, seed.again[OURS.name]))
    told = (
        f"all points of its sweep dominated or met in {searched} of {len(seeds)} seeds ({beaten} of {points} points); "
        f"measured again, its chosen one in {again}"
    )
    return Verdict(f"the front dominates {name}", "met" if searched == again == len(seeds) else "not met", told)


def _fast(seeds: Sequence[Seed]) -> Verdict:
    """How much of the budget ours needs for what NSGA-II has at its end."""
    shares = [share_to_reach(seed.curve(OURS.name), seed.curve(NSGA2.name)[-1][1], seed.regime.budget) for seed in seeds]
    told = ", ".join("never" if share is None else f"{share:.0%}" for share in shares)
    met = all(share is not None and share <= HALF for share in shares)
    claim = f"ours reaches NSGA-II's final hypervolume with at most {HALF:.0%} of the training steps"
    return Verdict(claim, "met" if met else "not met", f"by seed: {told}")


def _no_smaller(seeds: Sequence[Seed], name: str) -> Verdict:
    """Hypervolumes at the end."""
    ours, theirs = ([seed.curve(who)[-1][1] for seed in seeds] for who in (OURS.name, name))
    told = ", ".join(f"{mine:.3f} against {other:.3f}" for mine, other in zip(ours, theirs, strict=True))
    met = all(mine >= other for mine, other in zip(ours, theirs, strict=True))
    return Verdict(f"ours ends with no smaller hypervolume than {name}", "met" if met else "not met", f"by seed: {told}")


def _transfers(seeds: Sequence[Seed]) -> Verdict:
    """Against the fixed choice that is best at the other site, known only there: least memorization within 5 % of their best FID."""
    told, met = [], []
    for seed in seeds:
        fixed = {name: again for name, again in seed.transferred.items() if name != OURS.name}
        near = {name: again for name, again in fixed.items() if _fid(again) <= (1 + WITHIN) * min(map(_fid, fixed.values()))}
        best = min(near, key=lambda name: _objectives(near[name]))
        ours, other = seed.transferred[OURS.name], near[best]
        met.append(_objectives(ours)[0] <= _objectives(other)[0] and _fid(ours) <= (1 + WITHIN) * _fid(other))
        told.append(f"{_shown(ours)} against {best} {_shown(other)}")
    claim = "the mask taken to the other site memorizes no more than the best fixed choice there, at FID within +5%"
    return Verdict(claim, "met" if all(met) else "not met", "; ".join(told))


def _objectives(point: Again) -> list[float]:
    return [point.judged[name] for name in OBJECTIVES]


def _fid(point: Again) -> float:
    return point.judged["fid"]


def _shown(point: Again) -> str:
    memorization, fid = np.round(_objectives(point), 3)
    return f"{memorization:.3f} at FID {fid:.3f}, copies {point.judged['copy_rate']:.0%}"
