"""The kernel distance follows its definition, is 0 on average between sets of one kind, and grows as they part."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from shared.memorization.kernel_distance import kernel_distance, kernel_interval


def by_pairs(left: np.ndarray, right: np.ndarray) -> float:
    """The definition, pair by pair."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    within = [np.mean([kernel(x, y) for x, y in itertools.permutations(rows, 2)]) for rows in (left, right)]
    return float(sum(within) - 2 * np.mean([kernel(x, y) for x in left for y in right]))


def test_distance_is_that_of_its_definition() -> None:
    generator = np.random.default_rng(0)
    left, right = generator.standard_normal((7, 3)), generator.standard_normal((5, 3)) + 1
    assert kernel_distance(left, right) == pytest.approx(by_pairs(left, right))
    assert kernel_distance(left, right) == pytest.approx(kernel_distance(right, left))


def test_two_points_each_have_their_closed_form() -> None:
    # k(1, 1) = 8, k(1, -1) = 0, k(-1, -1) = 8: both pairs within are alike, all between are opposite.
    assert kernel_distance(np.array([[1.0], [1.0]]), np.array([[-1.0], [-1.0]])) == pytest.approx(16)


def test_samples_of_one_kind_are_zero_apart_on_average() -> None:
    generator = np.random.default_rng(1)
    values = [kernel_distance(generator.standard_normal((20, 4)), generator.standard_normal((30, 4))) for _ in range(400)]
    assert np.mean(values) == pytest.approx(0, abs=4 * np.std(values) / 20)
    assert min(values) < 0


def test_interval_holds_the_value_and_leaves_zero_where_the_sets_differ() -> None:
    generator = np.random.default_rng(2)
    left, right = generator.standard_normal((40, 4)) + 1, generator.standard_normal((60, 4))
    found = kernel_interval(left, [f"p{row}" for row in range(40)], right)
    assert found["value"] == kernel_distance(left, right)
    assert 0 < found["low"] < found["value"] < found["high"]
    assert found["n"] == 40


def test_resample_never_pairs_a_case_with_itself() -> None:
    left = 10 * np.eye(8)  # k(x, x) is (100 / 8 + 1)³ and that of two different rows 1
    found = kernel_interval(left, [f"p{row}" for row in range(8)], np.zeros((2, 8)))
    assert (found["low"], found["value"], found["high"]) == pytest.approx((0, 0, 0), abs=1e-9)


@pytest.mark.parametrize("shapes", [((1, 3), (5, 3)), ((5, 3), (5, 4)), ((5,), (5,))])
def test_sets_that_cannot_be_compared_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="two sets"):
        kernel_distance(np.zeros(shapes[0]), np.zeros(shapes[1]))
