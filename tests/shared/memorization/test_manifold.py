"""Balls around features: a set lies in its own, and what is far away in none."""

from __future__ import annotations

import numpy as np
import pytest

from shared.memorization.manifold import Manifold
from shared.memorization.rewards.names import NEIGHBOURS

LINE = np.arange(10, dtype=np.float64)[:, None]


def test_radius_reaches_to_the_neighbour_of_that_number() -> None:
    assert Manifold.of(LINE, 2).radii_N == pytest.approx([2, 1, 1, 1, 1, 1, 1, 1, 1, 2])
    assert Manifold.of(LINE, 3).radii_N == pytest.approx([3, 2, 2, 2, 2, 2, 2, 2, 2, 3])


def test_set_lies_in_itself_at_density_one() -> None:
    points = np.random.default_rng(0).standard_normal((300, 6))
    manifold = Manifold.of(points)
    assert (manifold.balls_around(points) > 0).all()
    assert manifold.reached_by(points).all()
    assert manifold.balls_around(points).mean() / NEIGHBOURS == pytest.approx(1)


def test_two_samples_of_one_kind_have_density_and_precision_near_one() -> None:
    generator = np.random.default_rng(1)
    manifold, others = Manifold.of(generator.standard_normal((600, 3))), generator.standard_normal((600, 3))
    assert manifold.balls_around(others).mean() / NEIGHBOURS == pytest.approx(1, abs=0.1)
    assert (manifold.balls_around(others) > 0).mean() > 0.9
    assert manifold.reached_by(others).mean() == pytest.approx(1 - 0.5**NEIGHBOURS, abs=0.03)  # Naeem et al. 2020, section 3.2


def test_what_is_far_away_lies_in_no_ball_and_reaches_none() -> None:
    manifold = Manifold.of(LINE, 2)
    assert manifold.balls_around(LINE + 100).tolist() == [0] * 10
    assert not manifold.reached_by(LINE + 100).any()


def test_one_image_reaches_the_balls_that_it_lies_in() -> None:
    manifold = Manifold.of(LINE, 2)
    image = np.array([[4.5]])  # within 1 of 4 and 5; 3 and 6 are farther than their radius
    assert manifold.balls_around(image).tolist() == [2]
    assert np.flatnonzero(manifold.reached_by(image)).tolist() == [4, 5]


def test_blocks_change_nothing() -> None:
    generator = np.random.default_rng(2)
    points, queries = generator.standard_normal((50, 4)), generator.standard_normal((30, 4))
    whole, cut = Manifold.of(points), Manifold.of(points, block_bytes=8 * 50 * 7)
    assert cut.radii_N == pytest.approx(whole.radii_N)
    assert cut.balls_around(queries, block_bytes=8 * 30 * 7).tolist() == whole.balls_around(queries).tolist()
    assert cut.reached_by(queries, block_bytes=8 * 30 * 7).tolist() == whole.reached_by(queries).tolist()


def test_set_without_enough_neighbours_is_refused() -> None:
    with pytest.raises(ValueError, match="more points than 5"):
        Manifold.of(LINE[:5])
