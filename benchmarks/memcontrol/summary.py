"""What courses and second looks say together: hypervolumes over steps, fronts, chosen points; of each seed, and over seeds.

N points, K objectives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.memcontrol.again import Again, read_again, transferred
from benchmarks.memcontrol.contenders import Contender
from benchmarks.memcontrol.course import WITHIN, Attempt, Course, chosen, copy_rate, front_of, losses_of, read_course
from benchmarks.memcontrol.regime import Regime
from benchmarks.memcontrol.site import Site
from benchmarks.memorization.summary import spread
from services.trainer.search.front import Box

Curve = list[tuple[int, float]]
"""After each training: steps so far, and the share of the box that is dominated."""


@dataclass(frozen=True)
class Seed:
    """Everything of one seed, by the contenders' names."""

    seed: int
    regime: Regime
    courses: dict[str, Course]
    again: dict[str, list[Again]]
    transferred: dict[str, Again]

    @classmethod
    def read(cls, here: Site, there: Site, contenders: Sequence[Contender]) -> Seed:
        """What was kept of it."""
        return cls(
            here.seed,
            here.regime,
            {contender.name: read_course(here, contender) for contender in contenders},
            {contender.name: read_again(here, contender) for contender in contenders},
            {contender.name: read_again(there, contender)[0] for contender in contenders if contender in transferred()},
        )

    @property
    def box(self) -> Box:
        """Around all contenders' fronts; what diverged or learnt nothing is on nobody's, and would stretch it."""
        return Box.around(np.concatenate([losses_of(front_of(course.finished)) for course in self.courses.values()]))

    @property
    def best_fid(self) -> float:
        """Of all contenders."""
        return min(attempt.losses[1] for course in self.courses.values() for attempt in course.finished)

    def curve(self, name: str) -> Curve:
        """How a contender's hypervolume grew."""
        return hypervolumes(self.courses[name], self.box)

    def row(self, name: str) -> dict[str, Any]:
        """One contender's figures; those that it has not, such as a copy rate where its FID is too far from the best, are None."""
        course, point = self.courses[name], chosen(self.courses[name].finished)
        near = [copy_rate(attempt) for attempt in course.finished if attempt.losses[1] <= (1 + WITHIN) * self.best_fid]
        again = self.again[name][0].judged
        return {
            "seed": self.seed,
            "hypervolume": self.curve(name)[-1][1],
            "steps": course.steps,
            "trainings": len(course.attempts),
            "ended_early": len(course.attempts) - len(course.finished),
            "copies_near_best_fid": min(near) if near else None,
            "trainable_fraction": point.trainable_fraction,
            "seconds": sum(attempt.seconds for attempt in course.attempts),
            **{f"chosen_{measure}": value for measure, value in (point.values or {}).items()},
            **{f"judged_{measure}": value for measure, value in again.items()},
        }


def hypervolumes(course: Course, box: Box) -> Curve:
    """After each training of a course."""
    curve: Curve = []
    finished: list[Attempt] = []
    steps, share = 0, 0.0
    for attempt in course.attempts:
        steps += attempt.steps
        if attempt.values is not None:
            finished.append(attempt)
            share = box.share(losses_of(finished))
        curve.append((steps, share))
    return curve


def share_to_reach(curve: Curve, goal: float, budget: int) -> float | None:
    """At which share of a budget a curve first comes to a hypervolume; None where it never does."""
    return next((steps / budget for steps, share in curve if share >= goal), None)


def is_dominated(point: Sequence[float], others: Iterable[Sequence[float]]) -> bool:
    """Whether one of the others is nowhere worse; the very same training is no worse than itself."""
    return any(all(theirs <= ours for theirs, ours in zip(other, point, strict=True)) for other in others)


def over_seeds(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A contender's figures over all seeds: mean, lowest, highest, and of how many seeds; None where no seed has one."""
    found: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows if row[name] is not None]
        found[name] = spread(values) if values else None
    return found | {"seed": [row["seed"] for row in rows]}


def transfer_rows(seeds: Sequence[Seed]) -> dict[str, dict[str, Any]]:
    """What each contender's choice came to at the other site, by prompts and noises that nothing was chosen by."""
    names = seeds[0].transferred
    return {name: {key: spread([seed.transferred[name].judged[key] for seed in seeds]) for key in names[name].judged} for name in names}
