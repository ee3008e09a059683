"""The Fréchet distance has its closed forms on samples that have exactly the wanted mean and covariance."""

from __future__ import annotations

import numpy as np
import pytest

from shared.memorization.frechet_distance import frechet_distance, frechet_interval


def sample(mean: list[float], covariance: list[list[float]], count: int, seed: int) -> np.ndarray:
    """Rows whose mean and covariance are these to rounding."""
    rows = np.random.default_rng(seed).standard_normal((count, len(mean)))
    rows -= rows.mean(0)
    rows @= np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(rows, rowvar=False)))).T
    return rows @ np.linalg.cholesky(np.array(covariance)).T + mean


def test_same_rows_have_distance_zero() -> None:
    rows = sample([1.0, 2.0, 3.0], [[2.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 3.0]], 50, 0)
    assert frechet_distance(rows, rows) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(rows, rows[::-1]) == pytest.approx(0, abs=1e-9)


def test_moved_rows_are_apart_by_the_square_of_the_move() -> None:
    rows = sample([0.0, 0.0], [[1.0, 0.3], [0.3, 2.0]], 40, 1)
    assert frechet_distance(rows, rows + np.array([3.0, 4.0])) == pytest.approx(25)


def test_commuting_covariances_give_squares_of_differences_of_deviations() -> None:
    left = sample([0.0, 0.0, 0.0], np.diag([4.0, 9.0, 1.0]).tolist(), 60, 2)
    right = sample([0.0, 0.0, 1.0], np.diag([1.0, 16.0, 25.0]).tolist(), 80, 3)
    assert frechet_distance(left, right) == pytest.approx((2 - 1) ** 2 + (3 - 4) ** 2 + (1 - 5) ** 2 + 1)


def test_covariances_that_do_not_commute_follow_the_closed_form_of_two_by_two() -> None:
    first, second = [[2.0, 0.7], [0.7, 1.0]], [[1.0, -0.4], [-0.4, 3.0]]
    product = np.array(first) @ np.array(second)
    # tr √P of a 2×2 P with positive eigenvalues is √(tr P + 2 √det P).
    expected = 2.0 + 1.0 + 1.0 + 3.0 - 2 * np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    left, right = sample([0.0, 0.0], first, 30, 4), sample([0.0, 0.0], second, 45, 5)
    assert frechet_distance(left, right) == pytest.approx(expected)
    assert frechet_distance(right, left) == pytest.approx(expected)


def test_one_feature_is_the_squared_difference_of_deviations() -> None:
    assert frechet_distance(sample([1.0], [[4.0]], 20, 6), sample([1.0], [[9.0]], 25, 7)) == pytest.approx(1)


def test_fewer_cases_than_features_still_give_a_number() -> None:
    generator = np.random.default_rng(8)
    left, right = generator.standard_normal((5, 12)), generator.standard_normal((6, 12))
    assert frechet_distance(left, left) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(left, right) > 0.5


@pytest.mark.parametrize("shapes", [((1, 3), (5, 3)), ((5, 3), (5, 4)), ((5,), (5,))])
def test_sets_that_have_no_covariance_in_common_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="two sets"):
        frechet_distance(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_interval_holds_the_value_and_narrows_with_more_images() -> None:
    generator = np.random.default_rng(9)
    real = generator.standard_normal((200, 6))
    widths = []
    for count in (40, 400):
        drawn = generator.standard_normal((count, 6)) + 1
        found = frechet_interval(drawn, [f"p{row}" for row in range(count)], real)
        assert found["value"] == frechet_distance(drawn, real)
        assert found["low"] < found["value"] < found["high"]
        assert found["n"] == count
        widths.append(found["high"] - found["low"])
    assert widths[1] < 0.6 * widths[0]


def test_interval_resamples_patients_and_not_their_films() -> None:
    generator = np.random.default_rng(10)
    real, drawn = generator.standard_normal((100, 3)), generator.standard_normal((40, 3)) + 1
    names = [f"p{row}" for row in range(40)]
    alone = frechet_interval(drawn, names, real)
    fourfold = frechet_interval(np.repeat(drawn, 4, 0), np.repeat(names, 4).tolist(), real)
    assert fourfold["high"] - fourfold["low"] == pytest.approx(alone["high"] - alone["low"], rel=0.1)
