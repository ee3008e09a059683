"""Courses whose figures are made up, so that what follows from them is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.memcontrol.again import Again
from benchmarks.memcontrol.contenders import CONTENDERS
from benchmarks.memcontrol.course import Attempt, Course
from benchmarks.memcontrol.regime import QUICK
from benchmarks.memcontrol.site import Site
from benchmarks.memcontrol.summary import Seed

BY_NAME = {contender.name: contender for contender in CONTENDERS}
REGIME = replace(QUICK, steps=10, trials=4)
Points = list[tuple[float, float]]
"""Memorization and FID of each training, in their order."""


def site_in(folder: Path, seed: int = 0) -> Site:
    return Site("chest", seed, REGIME, folder)


def attempt(memorization: float, fid: float, copies: float = 0.0, steps: int = REGIME.steps) -> Attempt:
    values = {"memorization": memorization, "fid": fid, "copy_rate": copies}
    spec = {"name": f"{memorization} {fid}", "dataset": "canaries", "steps": REGIME.steps}
    return Attempt(spec, steps, 2.0, 50, 0.25, values)


def ended(steps: int) -> Attempt:
    return Attempt({"name": "ended", "dataset": "canaries"}, steps, 1.0, 50, 0.25, None)


def course(name: str, points: Points, seed: int = 0) -> Course:
    return Course(name, seed, [attempt(*point) for point in points])


def again(memorization: float, fid: float, copies: float = 0.0) -> Again:
    return Again(attempt(memorization, fid), {"memorization": memorization, "fid": fid, "copy_rate": copies, "prompt_agreement": 0.5})


def seed_of(points: dict[str, Points], judged: dict[str, Points], transferred: dict[str, tuple[float, float]], seed: int = 0) -> Seed:
    return Seed(
        seed,
        REGIME,
        {name: course(name, each, seed) for name, each in points.items()},
        {name: [again(*point) for point in each] for name, each in judged.items()},
        {name: again(*point) for name, point in transferred.items()},
    )
