"""Distances in blocks equal those of all pairs at once."""

from __future__ import annotations

import numpy as np
import pytest

from shared.memorization.distances import distance_blocks, least_distances


def test_distances_of_right_triangles_are_their_hypotenuses() -> None:
    ((block, distance_MN),) = distance_blocks(np.array([[0.0, 0.0], [3.0, 0.0]]), np.array([[0.0, 4.0], [5.0, 12.0], [3.0, 1.0]]))
    assert (block.start, len(distance_MN.T)) == (0, 3)
    assert distance_MN.tolist() == [pytest.approx([4.0, 13.0, 10**0.5]), pytest.approx([5.0, 148**0.5, 1.0])]


@pytest.mark.parametrize("block_bytes", [1, 8 * 40 * 7, 10**6])
def test_least_distances_do_not_depend_on_the_blocks(block_bytes: int) -> None:
    generator = np.random.default_rng(0)
    queries, points = generator.standard_normal((40, 5)), generator.standard_normal((90, 5))
    brute = np.linalg.norm(queries[:, None] - points[None], axis=2).min(1)
    assert least_distances(queries, points, block_bytes=block_bytes) == pytest.approx(brute)


def test_every_point_is_nearest_to_itself() -> None:
    points = np.random.default_rng(1).standard_normal((60, 128))
    assert least_distances(points, points) == pytest.approx(0, abs=1e-6)
    assert least_distances(points[::-1] + np.eye(128)[0], points).min() > 0.9
