"""Tile distance: the largest difference of any tile, equal to brute force."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared.memorization.tile_distance import TILES, paired_tile_max_distance, tile_max_distance

SIDE = 16


def images(count: int, seed: int) -> Tensor:
    """Random grey bytes, N×H×W."""
    return torch.randint(0, 256, (count, SIDE, SIDE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def brute_force(left: Tensor, right: Tensor) -> float:
    """The definition, in double precision, tile by tile."""
    side = SIDE // TILES
    difference = (left.double() - right.double()) / 255
    tiles = [difference[r : r + side, c : c + side] for r in range(0, SIDE, side) for c in range(0, SIDE, side)]
    return max(float(tile.square().mean().sqrt()) for tile in tiles)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), queries=st.integers(1, 4), gallery=st.integers(1, 6))
def test_distance_equals_brute_force(seed: int, queries: int, gallery: int) -> None:
    left, right = images(queries, seed), images(gallery, seed + 1)
    distances = tile_max_distance(left, right)
    assert distances.shape == (queries, gallery)
    assert distances.flatten().tolist() == pytest.approx([brute_force(a, b) for a in left for b in right], abs=1e-6)


def test_one_differing_tile_sets_the_distance() -> None:
    left, right = torch.full((1, SIDE, SIDE), 0.5), torch.full((1, SIDE, SIDE), 0.5)
    right[0, 4:8, 8:12] = 0.8
    assert float(tile_max_distance(left, right)) == pytest.approx(0.3, abs=1e-6)
    right[0, 4:8, 8:12] = 0.5
    right[0, 5, 9] = 0.9  # one pixel of a tile's sixteen: √(0.4² / 16)
    assert float(tile_max_distance(left, right)) == pytest.approx(0.1, abs=1e-6)


def test_difference_in_flat_background_is_not_averaged_away() -> None:
    left = torch.zeros(1, SIDE, SIDE)
    right = left.clone()
    right[0, :4, :4] = 1.0
    assert float(tile_max_distance(left, right)) == pytest.approx(1.0)
    assert float((left - right).square().mean().sqrt()) == pytest.approx(0.25)


def test_distance_is_zero_on_identity_and_symmetric() -> None:
    films = images(6, 3)
    distances = tile_max_distance(films, films)
    assert float(distances.diagonal().max()) < 1e-7
    torch.testing.assert_close(distances, distances.T, rtol=0, atol=1e-7)
    assert float((distances + torch.eye(6)).min()) > 0.2


def test_nearly_equal_films_keep_their_small_distance() -> None:
    left = images(1, 4).float() / 255
    assert float(tile_max_distance(left, left + 1e-4)) == pytest.approx(1e-4, rel=1e-2)


def test_bytes_and_floats_give_the_same_distance() -> None:
    left, right = images(3, 5), images(4, 6)
    assert torch.equal(tile_max_distance(left, right), tile_max_distance(left.float() / 255, right.float() / 255))
    assert torch.equal(tile_max_distance(left, right), tile_max_distance(left, right.float() / 255))


def test_bytes_do_not_wrap_around() -> None:
    dark, bright = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8), torch.full((1, SIDE, SIDE), 255, dtype=torch.uint8)
    assert float(tile_max_distance(dark, bright)) == pytest.approx(1.0)
    assert float(paired_tile_max_distance(dark, bright)) == pytest.approx(1.0)


def test_pairs_are_the_diagonal() -> None:
    left, right = images(5, 7), images(5, 8)
    torch.testing.assert_close(paired_tile_max_distance(left, right), tile_max_distance(left, right).diagonal(), rtol=0, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(5)))
def test_distance_does_not_depend_on_the_order_of_the_gallery(order: list[int]) -> None:
    left, right = images(2, 9), images(5, 10)
    torch.testing.assert_close(tile_max_distance(left, right[order]), tile_max_distance(left, right)[:, order], rtol=0, atol=1e-7)
