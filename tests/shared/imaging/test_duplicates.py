"""Films that show the same picture: what is near, what is alike, and that the search misses no pair within the radius."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.imaging.duplicates import FEW_FILMS, RADIUS, Likeness, close_pairs, fit_likeness, thumbnail
from shared.imaging.phantom import draw, make_cohort

FILMS = 120


@pytest.fixture(scope="module")
def films() -> list[np.ndarray]:
    return [draw(film, 64) for film in make_cohort(90, 3) if film.view != "lateral"][:FILMS]


@pytest.fixture(scope="module")
def thumbnails(films: list[np.ndarray]) -> np.ndarray:
    return flat(films)


@pytest.fixture(scope="module")
def likeness(thumbnails: np.ndarray) -> Likeness:
    return fit_likeness(thumbnails)


def flat(films: list[np.ndarray]) -> np.ndarray:
    return np.stack([thumbnail(film).ravel() for film in films])


def reencoded(film: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(film).save(buffer, "JPEG", quality=40)
    return np.asarray(Image.open(buffer))


def toned(film: np.ndarray) -> np.ndarray:
    return (255 * (film / 255) ** 0.85).astype(np.uint8)


def resized(film: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(film).resize((97, 97), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("altered", [reencoded, toned, resized])
def test_altered_copies_are_near_and_alike(films: list[np.ndarray], thumbnails: np.ndarray, likeness: Likeness, altered: object) -> None:
    copies = flat([altered(film) for film in films])  # type: ignore[operator]
    distances = np.bitwise_count(likeness.hashes(thumbnails) ^ likeness.hashes(copies)).sum(1)
    assert (distances <= RADIUS).mean() >= 0.97
    assert (likeness.similarities(thumbnails, copies) >= likeness.alike).all()


def test_no_two_films_are_near_or_alike(thumbnails: np.ndarray, likeness: Likeness) -> None:
    left, right = np.triu_indices(len(thumbnails), 1)
    assert likeness.similarities(thumbnails[left], thumbnails[right]).max() < likeness.alike
    assert len(close_pairs(likeness.hashes(thumbnails))[0]) == 0


def test_few_films_are_compared_as_they_are(films: list[np.ndarray]) -> None:
    few = flat([films[0], reencoded(films[0]), films[1]])
    assert len(few) < FEW_FILMS
    likeness = fit_likeness(few)
    earlier, later = close_pairs(likeness.hashes(few))
    assert (earlier.tolist(), later.tolist()) == ([0], [1])
    assert (likeness.similarities(few[[0, 0]], few[[1, 2]]) >= likeness.alike).tolist() == [True, False]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_search_finds_what_comparing_all_finds(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    parents = rng.integers(0, 256, (max(1, count // 4), 32), dtype=np.uint8)
    flips = np.packbits(rng.random((count, 256)) < rng.choice([0.0, 0.03, 0.06]), axis=1)
    hashes = parents[rng.integers(0, len(parents), count)] ^ flips
    earlier, later = close_pairs(hashes)
    found = set(zip(earlier.tolist(), later.tolist(), strict=True))
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(-1)
    first_with_same = [int(np.flatnonzero(row == 0)[0]) for row in distance]
    expected = {(i, j) for j in range(count) for i in range(j) if distance[i, j] <= RADIUS and _is_told(first_with_same, i, j)}
    assert found == expected
    assert later.tolist() == sorted(later.tolist())


def _is_told(first_with_same: list[int], earlier: int, later: int) -> bool:
    """Of equal hashes only the first is paired with others, and each of the rest with the first."""
    return first_with_same[earlier] == earlier and first_with_same[later] in {earlier, later}


def test_equal_hashes_are_paired_with_the_first_only() -> None:
    earlier, later = close_pairs(np.zeros((5, 32), np.uint8))
    assert (earlier.tolist(), later.tolist()) == ([0, 0, 0, 0], [1, 2, 3, 4])


def test_one_film_has_no_pair() -> None:
    assert len(close_pairs(np.zeros((1, 32), np.uint8))[0]) == 0
