"""Contenders spend their budget and no more, over rewards of a formula; what is chosen is what a search would recommend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.memcontrol import course as module
from benchmarks.memcontrol.contenders import CONTENDERS, FIXED, OURS, SEARCHES, Contender, Search, search_spec
from benchmarks.memcontrol.course import chosen, front_of, read_course, run_course
from benchmarks.memcontrol.regime import FULL
from benchmarks.memcontrol.site import Site
from benchmarks.memcontrol.unit import GoesOn, Outcome, Unit
from services.trainer.search.recommendation import recommend
from services.trainer.search.rules import Rules
from services.trainer.search.space import Choice
from services.trainer.search.trial import Trial
from shared.memorization.rewards.names import BUILT_IN
from tests.benchmarks.memcontrol.made_up import attempt, ended
from tests.services.trainer.search.toy import estimate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MODULES = ["down_blocks.1.attentions.0", "mid_block.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.1"]


def formula(unit: Unit, rungs: Sequence[int] = (), goes_on: GoesOn = lambda _step, _values: True) -> Outcome:
    """Modules that take part memorize, and draw better the nearer the rate is to 1e-2."""
    parameters: Any = unit.spec.parameters
    size = sum(parameters.mask or getattr(parameters, "ranks", None) or [4])
    fid = 0.3 + abs((parameters.learning_rate or 0) - 1e-2) * 10 + 0.1 / (1 + size)
    values = {"memorization": estimate(0.1 * size), "fid": estimate(fid), "copy_rate": estimate(0.0)}
    seen: dict[int, Any] = {}
    for step in rungs:
        seen[step] = values
        if not goes_on(step, values):
            return Outcome(step, 1.0, size, size / 100, seen)
    return Outcome(unit.spec.steps, 3.0, size, size / 100, seen, values)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(module, "modules_of", lambda _site: MODULES)
    monkeypatch.setattr(module, "outcome_of", formula)
    return Site("chest", 0, FULL, tmp_path)


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_budget_is_spent_and_nothing_tried_twice(contender: Contender, site: Site) -> None:
    course = run_course(site, contender)
    assert read_course(site, contender) == course
    assert course.steps <= FULL.budget
    assert len({str(attempt.spec) for attempt in course.attempts}) == len(course.attempts)
    if isinstance(contender, Search):
        assert course.steps > FULL.budget - FULL.steps
        assert (len(course.finished) < len(course.attempts)) == contender.prunes
        assert all(attempt.steps in {FULL.steps, round(FULL.rung * FULL.steps)} for attempt in course.attempts)
    else:
        assert len(course.attempts) == FULL.points


def test_ours_begins_more_trainings_than_the_others(site: Site) -> None:
    begun = {search.name: len(run_course(site, search).attempts) for search in SEARCHES}
    assert begun[OURS.name] > FULL.trials
    assert {count for name, count in begun.items() if name != OURS.name} == {FULL.trials}


def test_front_and_chosen_point_are_those_of_the_searchs_own_rule() -> None:
    points = [(0.5, 0.40), (0.3, 0.41), (0.1, 0.43), (0.2, 0.50), (0.0, 0.9), (0.6, 0.392)]
    attempts = [attempt(*point) for point in points]
    assert [tuple(each.losses) for each in front_of(attempts)] == [(0.6, 0.392), (0.5, 0.40), (0.3, 0.41), (0.1, 0.43), (0.0, 0.9)]
    assert chosen(attempts).losses == [0.3, 0.41]  # 0.43 is further than 5 % from 0.392
    trials = [
        Trial(
            number=number,
            choice=Choice(kind="svdiff", mask=[1], learning_rate=1e-3),
            state="succeeded",
            values={"memorization": estimate(point[0]), "fid": estimate(point[1])},
        )
        for number, point in enumerate(points)
    ]
    rules = Rules.of(search_spec(OURS, FULL, 0), {name: BUILT_IN[name] for name in ("memorization", "fid")})
    found = recommend(trials, rules)
    assert found is not None
    assert [found.trial.figures()[name] for name in ("memorization", "fid")] == chosen(attempts).losses


def test_what_was_ended_early_is_no_point(site: Site) -> None:
    course = module.Course("ours", 0, [ended(3), attempt(0.1, 0.2)])
    assert (len(course.finished), course.steps) == (1, 13)
    assert module.course_path(site, FIXED[2]).name == "bias-and-norm.json"
