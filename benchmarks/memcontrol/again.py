"""Points looked at again: by prompts and noises that nothing was chosen by, and at another site.

A front is the best of many trainings on one measurement, and some of that is luck; here nobody can have any.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.memcontrol.contenders import CONTENDERS, OURS, Contender
from benchmarks.memcontrol.course import Attempt, chosen, front_of, read_course
from benchmarks.memcontrol.site import Site
from benchmarks.memcontrol.unit import Unit, judged, outcome_of, write_whole


@dataclass(frozen=True)
class Again:
    """A training with the figures that nothing was chosen by."""

    attempt: Attempt
    judged: dict[str, float]


def judged_path(site: Site, contender: Contender) -> Path:
    """Where a contender's points lie, looked at again."""
    return site.home / "judged" / f"{contender.name.replace(' ', '-')}.json"


def judge(site: Site, contender: Contender) -> list[Again]:
    """The chosen point of a contender first, then, of ours, the rest of the front."""
    course = read_course(site, contender)
    best = chosen(course.finished)
    others = [point for point in front_of(course.finished) if point != best] if contender == OURS else []
    return _kept(judged_path(site, contender), [_again(site, point) for point in (best, *others)])


def transfer(searched: Site, site: Site, contender: Contender) -> list[Again]:
    """What a contender chose at one site, trained at another one as it is."""
    spec = chosen(read_course(searched, contender).finished).training
    attempt = Attempt.of(spec, outcome_of(Unit(site, spec)))
    return _kept(judged_path(site, contender), [_again(site, attempt)])


def transferred() -> list[Contender]:
    """Whose choices are taken along: ours and the fixed ones."""
    return [contender for contender in CONTENDERS if contender == OURS or contender.is_fixed]


def read_again(site: Site, contender: Contender) -> list[Again]:
    """What was kept."""
    kept: list[dict[str, Any]] = json.loads(judged_path(site, contender).read_text(encoding="utf-8"))
    return [Again(Attempt(**point["attempt"]), point["judged"]) for point in kept]


def _again(site: Site, attempt: Attempt) -> Again:
    values = judged(Unit(site, attempt.training))
    return Again(attempt, {name: estimate["value"] for name, estimate in values.items()})


def _kept(path: Path, points: Sequence[Again]) -> list[Again]:
    write_whole(path, [asdict(point) for point in points])
    return list(points)
