"""The finding reader: what agreement means, and that it learns what it is shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shared.memorization.finding_reader import FindingReader, Item, agreement, train_finding_reader

SIDE = 32
VIEW, LEFT, RIGHT = ("view", "AP"), ("Pleural Effusion", "left"), ("Pleural Effusion", "right")


def quiet(_step: int, _loss: torch.Tensor) -> None:
    """No progress wanted."""


def toy(count: int, seed: int) -> tuple[NDArray[np.uint8], list[frozenset[Item]]]:
    """Grey noise with a bright square on either side; every film has the same view."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 110, (count, SIDE, SIDE)).astype(np.uint8)
    shown = []
    for image in images:
        items: set[Item] = {VIEW}
        if rng.random() < 0.5:
            items.add(LEFT)
            image[18:28, 20:28] = 230  # the patient's left is on the right of the image
        if rng.random() < 0.25:
            items.add(RIGHT)
            image[18:28, 4:12] = 230
        shown.append(frozenset(items))
    return images, shown


@pytest.fixture(scope="module")
def reader() -> FindingReader:
    """A reader of the toy."""
    return train_finding_reader(*toy(150, 0), seed=0, on_step=quiet, steps=120)


@pytest.mark.parametrize(
    ("asked", "seen", "value"),
    [
        ({LEFT}, {LEFT}, 1.0),
        ({LEFT}, {RIGHT}, 0.0),
        ({LEFT}, set(), 0.0),
        (set(), {LEFT}, 0.0),
        (set(), set(), 1.0),
        ({LEFT, VIEW}, {VIEW}, 2 / 3),
        ({LEFT, VIEW}, {RIGHT, VIEW}, 0.5),
        ({VIEW}, {VIEW, LEFT, RIGHT}, 0.5),
    ],
)
def test_agreement_is_the_overlap_of_asked_and_seen(asked: set[Item], seen: set[Item], value: float) -> None:
    assert agreement(frozenset(asked), frozenset(seen)) == pytest.approx(value)
    assert agreement(frozenset(seen), frozenset(asked)) == pytest.approx(value)


def test_reader_learns_what_it_was_shown(reader: FindingReader) -> None:
    images, shown = toy(60, 1)
    assert reader.items == sorted([VIEW, LEFT, RIGHT])
    agreements = [agreement(asked, seen) for asked, seen in zip(shown, reader.read(images), strict=True)]
    assert np.mean(agreements) > 0.95


def test_item_of_every_film_is_seen_in_every_film(reader: FindingReader) -> None:
    assert all(VIEW in seen for seen in reader.read(toy(30, 2)[0]))


def test_sides_are_told_apart(reader: FindingReader) -> None:
    images = np.full((2, SIDE, SIDE), 85, dtype=np.uint8)
    images[0, 18:28, 20:28] = images[1, 18:28, 4:12] = 230
    left, right = reader.read(images)
    assert (LEFT in left, RIGHT in left) == (True, False)
    assert (LEFT in right, RIGHT in right) == (False, True)


def test_reading_does_not_depend_on_the_batch(reader: FindingReader) -> None:
    images, _ = toy(7, 3)
    alone = torch.cat([reader(torch.from_numpy(images[i : i + 1]).float() / 255) for i in range(7)])
    torch.testing.assert_close(reader(torch.from_numpy(images).float() / 255), alone, rtol=1e-4, atol=1e-4)


def test_thresholds_decide_what_counts_as_seen(reader: FindingReader) -> None:
    images, _ = toy(5, 4)
    before = reader.thresholds.clone()
    reader.thresholds.fill_(1e9)
    try:
        assert reader.read(images) == [frozenset()] * 5
    finally:
        reader.thresholds.copy_(before)


def test_same_seed_gives_same_weights() -> None:
    first, again, other = (train_finding_reader(*toy(20, 0), seed=seed, on_step=quiet, steps=3) for seed in (1, 1, 2))
    assert all(torch.equal(left, right) for left, right in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.layers[-1].weight, other.layers[-1].weight)


def test_state_is_loaded_into_an_unused_reader(reader: FindingReader) -> None:
    images, _ = toy(5, 5)
    again = FindingReader(reader.items)
    again.load_state_dict(reader.state_dict())
    assert again.eval().read(images) == reader.read(images)


def test_trained_reader_is_in_evaluation_mode(reader: FindingReader) -> None:
    images = torch.from_numpy(toy(3, 6)[0]).float() / 255
    assert not reader.training
    assert torch.equal(reader(images), reader(images))
