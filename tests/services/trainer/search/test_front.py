from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.trainer.search.front import Box, crowding, dominated, eligible, front, gain, hypervolume, hypervolume_over_steps, ranks
from services.trainer.search.rules import Rules
from services.trainer.search.space import Choice
from services.trainer.search.trial import Trial
from tests.services.trainer.search.toy import DIRECTIONS, ended, spec_of

CHOICE = Choice(kind="svdiff", mask=[1], learning_rate=1e-4)
RULES = Rules.of(spec_of(), DIRECTIONS)

points = st.integers(1, 4).flatmap(
    lambda count: st.lists(st.lists(st.integers(0, 5).map(float), min_size=count, max_size=count), min_size=1, max_size=6)
)


def by_inclusion_and_exclusion(losses_NK: NDArray[np.float64], reference_K: NDArray[np.float64]) -> float:
    """The volume of a union of boxes, by the volumes of all their intersections."""
    volume = 0.0
    for count in range(1, len(losses_NK) + 1):
        for some in combinations(losses_NK, count):
            volume -= (-1) ** count * float(np.prod((reference_K - np.max(some, axis=0)).clip(0)))
    return volume


def trial(number: int, memorization: float, agreement: float, steps: int = 100) -> Trial:
    return ended(number, CHOICE, {"memorization": memorization, "finding_agreement": agreement}, steps)


def test_a_point_is_dominated_by_one_that_is_nowhere_worse_and_somewhere_better() -> None:
    losses = np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0], [3.0, 1.0], [2.0, 2.0]])
    assert dominated(losses).tolist() == [False, False, True, False, False]


def test_ranks_peel_one_front_after_the_other() -> None:
    losses = np.array([[1.0, 3.0], [3.0, 1.0], [2.0, 4.0], [4.0, 4.0], [4.0, 2.0]])
    assert ranks(losses).tolist() == [0, 0, 1, 2, 1]
    assert ranks(np.array([[3.0], [1.0], [2.0], [1.0]])).tolist() == [2, 0, 1, 0]


def test_crowding_is_the_way_between_neighbours() -> None:
    losses = np.array([[0.0, 10.0], [1.0, 4.0], [2.0, 2.0], [4.0, 0.0]])
    assert crowding(losses).tolist() == [np.inf, pytest.approx(2 / 4 + 8 / 10), pytest.approx(3 / 4 + 4 / 10), np.inf]


@pytest.mark.parametrize(
    ("losses", "volume"),
    [
        ([[2.0]], 8.0),
        ([[2.0], [1.0]], 9.0),
        ([[0.0, 0.0]], 100.0),
        ([[2.0, 6.0], [6.0, 2.0]], 8 * 4 + 4 * 4),
        ([[2.0, 6.0], [6.0, 2.0], [7.0, 7.0]], 8 * 4 + 4 * 4),
        ([[2.0, 6.0], [10.0, 2.0]], 8 * 4),
        ([[0.0, 5.0, 5.0], [5.0, 0.0, 5.0], [5.0, 5.0, 0.0]], 750 - 375 + 125),
        ([[9.0, 9.0, 9.0, 9.0], [8.0, 8.0, 9.0, 9.0]], 4.0),
        ([[11.0, 0.0]], 0.0),
    ],
)
def test_hypervolume_of_cases_made_by_hand(losses: list[list[float]], volume: float) -> None:
    assert hypervolume(np.array(losses), np.full(len(losses[0]), 10.0)) == pytest.approx(volume)


@given(points)
@settings(deadline=None, max_examples=150)
def test_hypervolume_is_exact_for_up_to_four_objectives(losses: list[list[float]]) -> None:
    losses_NK, reference_K = np.array(losses), np.full(len(losses[0]), 4.5)
    assert hypervolume(losses_NK, reference_K) == pytest.approx(by_inclusion_and_exclusion(losses_NK, reference_K))


@given(points)
@settings(deadline=None, max_examples=60)
def test_more_points_never_dominate_less(losses: list[list[float]]) -> None:
    losses_NK, reference_K = np.array(losses), np.full(len(losses[0]), 4.5)
    volumes = [hypervolume(losses_NK[: count + 1], reference_K) for count in range(len(losses))]
    assert all(after >= before for before, after in pairwise(volumes))


@given(points)
@settings(deadline=None, max_examples=100)
def test_gains_add_up_to_the_hypervolume(losses: list[list[float]]) -> None:
    losses_NK, reference_K = np.array(losses), np.full(len(losses[0]), 4.5)
    gains = [gain(point_K, losses_NK[:before], reference_K) for before, point_K in enumerate(losses_NK)]
    assert sum(gains) == pytest.approx(hypervolume(losses_NK, reference_K))


def test_the_box_goes_a_tenth_of_the_span_beyond_the_worst() -> None:
    box = Box.around(np.array([[0.0, 5.0], [10.0, 5.0]]))
    assert box.reference_K.tolist() == [11.0, 5.1]
    assert box.share(np.array([[0.0, 5.0]])) == pytest.approx(1.0)
    assert box.share(np.array([[5.5, 5.0]])) == pytest.approx(0.5)
    assert box.share(np.array([[-5.0, 4.0]])) == pytest.approx(1.0)


def test_the_front_goes_by_directions() -> None:
    trials = [trial(0, 0.5, 0.9), trial(1, 0.1, 0.2), trial(2, 0.5, 0.5), trial(3, 0.3, 0.7)]
    assert [point.number for point in front(trials, RULES)] == [1, 3, 0]


def test_only_trials_that_ended_within_the_bounds_are_on_a_front() -> None:
    rules = Rules.of(spec_of(constraints=[{"reward": "finding_agreement", "at_least": 0.6}]), DIRECTIONS)
    trials = [trial(0, 0.5, 0.9), trial(1, 0.1, 0.2), trial(2, 0.01, 0.99).model_copy(update={"state": "pruned"})]
    assert [point.number for point in eligible(trials, rules)] == [0]
    assert [point.number for point in front(trials, rules)] == [0]
    assert front(trials[1:], rules) == []


def test_the_curve_counts_the_steps_of_all_trials_and_never_falls() -> None:
    trials = [
        trial(0, 0.5, 0.5),
        Trial(number=1, choice=CHOICE, state="pruned", steps=10),
        trial(2, 0.6, 0.4),
        Trial(number=3, choice=CHOICE, state="running", steps=50),
        trial(4, 0.1, 0.9),
        Trial(number=5, choice=CHOICE, state="failed", steps=3),
    ]
    curve = hypervolume_over_steps(trials, RULES)
    assert [steps for steps, _ in curve] == [100, 110, 210, 310, 313]
    # The box spans 0.1 to 0.65 and -0.9 to -0.35.
    first = (0.65 - 0.5) * (0.5 - 0.35) / (0.55 * 0.55)
    assert [share for _, share in curve] == [pytest.approx(share) for share in (first, first, first, 1.0, 1.0)]


def test_one_box_makes_searches_comparable() -> None:
    box = Box(np.array([0.0, -1.0]), np.array([1.0, 0.0]))
    assert hypervolume_over_steps([trial(0, 0.5, 0.5)], RULES, box) == [(100, pytest.approx(0.25))]
    assert hypervolume_over_steps([trial(0, 0.2, 0.5)], RULES, box) == [(100, pytest.approx(0.4))]


def test_the_curve_is_flat_while_nothing_came_to_its_end() -> None:
    assert hypervolume_over_steps([Trial(number=0, choice=CHOICE, state="failed", steps=7)], RULES) == [(7, 0.0)]
