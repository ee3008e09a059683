"""Extraction finds cliques, not components, and films, not prompts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from shared.memorization.extraction import EDGE_RATE, edge_limit, extracted_films, find_clique, nearest_films
from shared.memorization.statistics import upper_threshold
from shared.memorization.tile_distance import tile_max_distance

SIDE = 16


def graph(nodes: int, edges: list[tuple[int, int]]) -> np.ndarray:
    near = np.eye(nodes, dtype=bool)
    for one, other in edges:
        near[one, other] = near[other, one] = True
    return near


def shades(*values: int) -> np.ndarray:
    """Even pictures: their tile distance is the difference of their shades, over 255."""
    return np.stack([np.full((SIDE, SIDE), value, dtype=np.uint8) for value in values])


def test_path_is_one_component_and_no_clique_of_three() -> None:
    path = graph(12, [(i, i + 1) for i in range(11)])
    assert len(find_clique(path, 2)) == 2
    assert find_clique(path, 3) == []


def test_planted_clique_is_found_among_other_edges() -> None:
    generator = np.random.default_rng(0)
    planted = sorted(generator.choice(60, 10, replace=False).tolist())
    others = [pair for pair in itertools.combinations(range(60), 2) if generator.random() < 0.15]
    near = graph(60, others + list(itertools.combinations(planted, 2)))
    assert sorted(find_clique(near, 10)) == planted
    assert find_clique(near, 11) == []


@pytest.mark.parametrize("seed", range(20))
def test_answer_is_that_of_trying_every_group(seed: int) -> None:
    generator = np.random.default_rng(seed)
    upper = np.triu(generator.random((9, 9)) < 0.55, 1)
    near = upper | upper.T
    for size in range(1, 7):
        possible = any(all(near[a, b] for a, b in itertools.combinations(some, 2)) for some in itertools.combinations(range(9), size))
        found = find_clique(near, size)
        assert bool(found) == possible
        assert all(near[a, b] for a, b in itertools.combinations(found, 2))


def test_chain_of_images_is_not_extracted_and_a_clique_is() -> None:
    films = shades(0, 100, 200)
    chain, clique = shades(80, 90, 100, 110, 120), shades(97, 100, 103, 180)
    assert extracted_films([chain], films, limit=12 / 255, size=3) == set()
    assert extracted_films([chain, clique], films, limit=12 / 255, size=3) == {1}
    assert extracted_films([clique], films, limit=12 / 255, size=4) == set()


def test_film_that_two_prompts_give_up_counts_once_and_agreement_without_a_film_does_not() -> None:
    films = shades(0, 100, 200)
    again = shades(99, 101, 102)
    assert extracted_films([again, again + 1, shades(150, 151, 152)], films, limit=12 / 255, size=3) == {1}


def test_agreement_on_something_else_does_not_hide_a_film() -> None:
    """Of several cliques the one counts that meets a film, wherever its images stand among the others."""
    films = shades(0, 100, 200)
    both = shades(150, 151, 152, 99, 100, 101)
    for order in ([0, 1, 2, 3, 4, 5], [3, 4, 5, 0, 1, 2], [0, 3, 1, 4, 2, 5]):
        assert extracted_films([both[order]], films, limit=12 / 255, size=3) == {1}
        assert extracted_films([both[order]], films, limit=12 / 255, size=4) == set()
    assert extracted_films([shades(150, 151, 152, 100, 101)], films, limit=12 / 255, size=3) == set()  # the film's images are too few


def test_of_several_films_a_prompt_gives_up_the_nearest() -> None:
    assert extracted_films([shades(103, 104, 105, 201, 202, 203)], shades(0, 100, 200), limit=12 / 255, size=3) == {2}


def test_limit_is_reached_by_the_stated_share_of_strangers() -> None:
    generator = np.random.default_rng(1)
    strangers, films = (generator.integers(0, 256, (count, SIDE, SIDE)).astype(np.uint8) for count in (150, 200))
    limit = edge_limit(strangers, films)
    distances = tile_max_distance(torch.from_numpy(strangers), torch.from_numpy(films)).double().numpy()
    assert 0 < (distances <= limit).mean() <= EDGE_RATE


@pytest.mark.parametrize("block_bytes", [1, 8 * 256 * 7, 8 * 256 * 50, 10**9])
@pytest.mark.parametrize(("strangers", "films"), [(2, 3), (60, 90), (150, 200)])
def test_limit_is_that_of_all_pairs_whatever_the_blocks(strangers: int, films: int, block_bytes: int) -> None:
    generator = np.random.default_rng(2)
    images, others = (generator.integers(0, 256, (count, SIDE, SIDE)).astype(np.uint8) for count in (strangers, films))
    closeness_MN = -tile_max_distance(torch.from_numpy(images), torch.from_numpy(others)).double().numpy()
    assert edge_limit(images, others, block_bytes=block_bytes) == -upper_threshold(closeness_MN.ravel(), EDGE_RATE)


@pytest.mark.parametrize("block_bytes", [1, 8 * 256 * 3, 10**6])
def test_nearest_films_are_those_of_all_pairs_whatever_the_blocks(block_bytes: int) -> None:
    generator = np.random.default_rng(6)
    images, films = (generator.integers(0, 256, (count, 16, 16)).astype(np.uint8) for count in (5, 10))
    films[7] = images[3]
    distance_MN = tile_max_distance(torch.from_numpy(images), torch.from_numpy(films))
    nearest_M, film_M = nearest_films(images, films, block_bytes=block_bytes)
    assert torch.allclose(nearest_M, distance_MN.min(1).values)
    assert film_M.tolist() == distance_MN.argmin(1).tolist()
    assert nearest_M.tolist()[3] == pytest.approx(0, abs=1e-6)
