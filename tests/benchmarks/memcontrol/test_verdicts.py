"""Verdicts follow from the figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.memcontrol.verdicts import Verdict, verdicts
from tests.benchmarks.memcontrol.made_up import Points, seed_of

if TYPE_CHECKING:
    from benchmarks.memcontrol.summary import Seed

OURS: Points = [(0.1, 0.5), (0.5, 0.2)]


def verdict_on(seeds: list[Seed], claim: str) -> Verdict:
    (found,) = [verdict for verdict in verdicts(seeds) if claim in verdict.claim]
    return found


def seed_with(full: Points, full_again: tuple[float, float] = (1.0, 1.0)) -> Seed:
    transferred = {"ours": (0.1, 0.3), "full": (0.5, 0.3)}
    return seed_of({"ours": OURS, "full": full}, {"ours": OURS, "full": [full_again]}, transferred)


@pytest.mark.parametrize(
    ("sweep", "again", "outcome"),
    [
        ([(0.6, 0.6), (0.5, 0.2)], (0.6, 0.6), "met"),  # the very point of the front is met by it
        ([(0.6, 0.6), (0.4, 0.4)], (0.6, 0.6), "not met"),
        ([(0.6, 0.6)], (0.05, 0.6), "not met"),
    ],
)
def test_front_dominates_where_it_was_searched_and_where_it_is_measured_again(
    sweep: Points, again: tuple[float, float], outcome: str
) -> None:
    assert verdict_on([seed_with(sweep, again)], "dominates full").outcome == outcome


def test_one_seed_where_it_does_not_is_enough() -> None:
    found = verdict_on([seed_with([(0.6, 0.6)]), seed_with([(0.0, 0.1)])], "dominates full")
    assert found.outcome == "not met"
    assert "1 of 2 seeds (1 of 2 points)" in found.figures


@pytest.mark.parametrize(("theirs", "outcome"), [([(0.6, 0.6)], "met"), ([(0.4, 0.4), (0.0, 0.0)], "not met")])
def test_speed_is_where_ours_comes_to_what_nsga2_ends_with(theirs: Points, outcome: str) -> None:
    seed = seed_of({"ours": OURS, "NSGA-II": theirs}, {}, {})
    found = verdict_on([seed], "at most 50%")
    assert found.outcome == outcome
    assert ("25%" in found.figures) == (outcome == "met")
    assert verdict_on([seed], "no smaller hypervolume than NSGA-II").outcome == outcome


@pytest.mark.parametrize(
    ("ours", "outcome"),
    [((0.2, 0.5), "met"), ((0.2, 0.53), "not met"), ((0.31, 0.4), "not met"), ((0.3, 0.52), "met")],
)
def test_transfer_is_held_against_the_fixed_choice_that_is_best_there(ours: tuple[float, float], outcome: str) -> None:
    there = {"ours": ours, "full": (0.9, 0.49), "SV-DIFF": (0.3, 0.5), "DiffFit": (0.0, 0.9)}
    points: dict[str, Points] = {name: [(1.0, 1.0)] for name in there}
    found = verdict_on([seed_of(points, points, there)], "taken to the other site")
    assert found.outcome == outcome
    assert "against SV-DIFF 0.300 at FID 0.500" in found.figures


def test_without_ours_nothing_is_judged() -> None:
    assert verdicts([seed_of({"full": OURS}, {"full": OURS}, {})]) == []
