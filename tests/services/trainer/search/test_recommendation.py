from __future__ import annotations

from typing import Any

from services.trainer.search.recommendation import Recommended, recommend
from services.trainer.search.rules import Rules
from services.trainer.search.space import Choice
from services.trainer.search.trial import Trial
from shared.memorization.rewards.names import BUILT_IN
from tests.services.trainer.search.toy import ended, spec_of

CHOICE = Choice(kind="svdiff", mask=[1], learning_rate=1e-4)
POINTS = [(0.9, 10.0), (0.5, 10.4), (0.2, 13.0), (0.0, 30.0)]


def trials(points: list[tuple[float, float]]) -> list[Trial]:
    return [ended(number, CHOICE, {"memorization": memorization, "fid": fid}) for number, (memorization, fid) in enumerate(points)]


def recommended(points: list[tuple[float, float]], **told: Any) -> Recommended:
    found = recommend(trials(points), Rules.of(spec_of(objectives=["memorization", "fid"], **told), BUILT_IN))
    assert found is not None
    return found


def test_the_knee_is_nearest_to_the_ideal_point() -> None:
    found = recommended(POINTS)
    assert found.trial.number == 2
    assert found.rule == "the point nearest to the best of memorization and fid, each scaled to the front's span"


def test_quality_within_takes_the_least_memorization_near_the_best_quality() -> None:
    found = recommended(POINTS, recommend={"rule": "quality_within", "share": 0.05})
    assert found.trial.number == 1
    assert found.rule == "the best memorization among the points whose fid is within 5% of the best"
    assert recommended(POINTS, recommend={"rule": "quality_within", "share": 0.0}).trial.number == 0
    assert recommended(POINTS, recommend={"rule": "quality_within", "share": 0.3}).trial.number == 2


def test_a_quality_that_is_maximised_is_near_the_best_from_below() -> None:
    rules = Rules.of(spec_of(objectives=["finding_agreement", "copy_rate"], recommend={"rule": "quality_within", "share": 0.1}), BUILT_IN)
    points = [(0.9, 0.8), (0.82, 0.3), (0.7, 0.1)]
    able = [ended(number, CHOICE, {"finding_agreement": good, "copy_rate": bad}) for number, (good, bad) in enumerate(points)]
    found = recommend(able, rules)
    assert found is not None
    assert found.trial.number == 1


def test_points_that_break_bounds_are_never_recommended() -> None:
    assert recommended(POINTS, constraints=[{"reward": "memorization", "at_most": 0.1}]).trial.number == 3


def test_one_objective_has_one_best() -> None:
    found = recommend(trials(POINTS), Rules.of(spec_of(objectives=["fid"]), BUILT_IN))
    assert found is not None
    assert (found.trial.number, found.rule) == (0, "the best fid")


def test_nothing_is_recommended_of_nothing() -> None:
    assert recommend([], Rules.of(spec_of(), BUILT_IN)) is None


def test_one_point_alone_is_recommended() -> None:
    assert recommended([(0.5, 3.0)]).trial.number == 0
