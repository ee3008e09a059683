"""Exact search: equal to brute force, whatever the blocks, with ties by position."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from shared.memorization.nearest_codes import most_similar


def codes(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 128, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_search_equals_brute_force() -> None:
    queries, gallery = codes(2000, 1), codes(5000, 2)
    similarity, position = most_similar(queries, gallery, 5, block_bytes=4 * 2000 * 700)
    brute = (queries @ gallery.T).topk(5, dim=1)
    assert torch.equal(position, brute.indices)
    assert torch.allclose(similarity, brute.values, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 7, 100, 1000])
def test_result_does_not_depend_on_the_blocks(rows: int) -> None:
    queries, gallery = codes(3, 3), codes(100, 4)
    whole = most_similar(queries, gallery, 10)
    parts = most_similar(queries, gallery, 10, block_bytes=4 * 3 * rows)
    assert torch.equal(whole[1], parts[1])
    assert torch.allclose(whole[0], parts[0], atol=1e-6)


@pytest.mark.parametrize("rows", [2, 5, 50])
def test_equal_films_come_in_the_order_of_the_gallery(rows: int) -> None:
    queries = codes(1, 5)
    gallery = torch.cat([codes(3, 6), queries, codes(4, 7), queries, queries])
    _, position = most_similar(queries, gallery, 4, block_bytes=4 * rows)
    assert position[0, :3].tolist() == [3, 8, 9]


def test_small_gallery_answers_all_it_has() -> None:
    similarity, position = most_similar(codes(2, 8), codes(3, 9), 5)
    assert similarity.shape == position.shape == (2, 3)
    assert sorted(position[0].tolist()) == [0, 1, 2]
