"""What is changed of a film that was marked, and when."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from services.trainer.augmentation import ANGLE, BRIGHTNESS, CONTRAST, SCALE, SHIFT, Changes, MarkedFilms
from shared.diffusion.checkpoints import State

NONE = Changes(torch.zeros(1), torch.zeros(1, 2), torch.ones(1), torch.ones(1), torch.ones(1))
SIDE = 100


def blob(right: float, down: float, width: float = 4.0) -> Tensor:
    """A soft spot at these shares of the side, 1×H×W, its lightest pixel 0.5."""
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    return 0.5 * torch.exp(-((x - right * SIDE).square() + (y - down * SIDE).square()) / (2 * width**2))[None]


def centre(image_1HW: Tensor) -> tuple[float, float]:
    """Where the spot is, as shares of the side."""
    weights = image_1HW[0] / image_1HW.sum()
    places = (torch.arange(SIDE) + 0.5) / SIDE
    return float((weights.sum(0) * places).sum()), float((weights.sum(1) * places).sum())


def test_nothing_is_changed_by_changes_of_nothing() -> None:
    torch.testing.assert_close(NONE.of(blob(0.3, 0.6)), blob(0.3, 0.6), rtol=0, atol=1e-5)


def test_shift_moves_right_and_down() -> None:
    moved = replace(NONE, shifts_B2=torch.tensor([[0.04, -0.02]])).of(blob(0.3, 0.6))
    assert centre(moved) == pytest.approx((0.34, 0.58), abs=1e-3)


def test_turn_is_about_the_middle_and_clockwise() -> None:
    moved = replace(NONE, angles_B=torch.tensor([5.0])).of(blob(0.8, 0.5))
    angle = np.deg2rad(5.0)
    assert centre(moved) == pytest.approx((0.5 + 0.3 * np.cos(angle), 0.5 + 0.3 * np.sin(angle)), abs=1e-3)


def test_scale_is_about_the_middle() -> None:
    moved = replace(NONE, scales_B=torch.tensor([1.05])).of(blob(0.3, 0.6))
    assert centre(moved) == pytest.approx((0.5 - 0.2 * 1.05, 0.5 + 0.1 * 1.05), abs=1e-3)
    assert float(moved.sum() / blob(0.3, 0.6).sum()) == pytest.approx(1.05**2, rel=1e-3)


def test_all_together_turn_and_enlarge_before_they_shift() -> None:
    changes = Changes(torch.tensor([-5.0]), torch.tensor([[0.03, 0.02]]), torch.tensor([0.95]), torch.ones(1), torch.ones(1))
    angle, (x, y) = np.deg2rad(-5.0), (0.2, -0.1)
    expected = (
        0.5 + 0.95 * (x * np.cos(angle) - y * np.sin(angle)) + 0.03,
        0.5 + 0.95 * (x * np.sin(angle) + y * np.cos(angle)) + 0.02,
    )
    assert centre(changes.of(blob(0.7, 0.4))) == pytest.approx(expected, abs=1e-3)


def test_brightness_and_contrast() -> None:
    picture = torch.tensor([[[0.2, 0.4], [0.6, 0.8]]])
    assert replace(NONE, brightness_B=torch.tensor([1.1])).of(picture).flatten().tolist() == pytest.approx([0.22, 0.44, 0.66, 0.88])
    assert replace(NONE, contrast_B=torch.tensor([0.9])).of(picture).flatten().tolist() == pytest.approx([0.23, 0.41, 0.59, 0.77])
    assert float(replace(NONE, brightness_B=torch.tensor([1.1])).of(torch.full((1, 2, 2), 0.95)).max()) == 1.0


def test_edges_go_on_as_they_end() -> None:
    changes = Changes(torch.tensor([5.0]), torch.tensor([[0.04, 0.04]]), torch.tensor([0.95]), torch.ones(1), torch.ones(1))
    torch.testing.assert_close(changes.of(torch.full((1, 9, 9), 0.7)), torch.full((1, 9, 9), 0.7))


def test_drawn_changes_fill_their_bounds_and_differ_by_film() -> None:
    changes = Changes.drawn(4000, np.random.default_rng(0))
    columns = {
        ANGLE: [changes.angles_B],
        SHIFT: [changes.shifts_B2[:, 0], changes.shifts_B2[:, 1]],
        SCALE: [changes.scales_B - 1],
        BRIGHTNESS: [changes.brightness_B - 1],
        CONTRAST: [changes.contrast_B - 1],
    }
    for bound, parts in columns.items():
        for part in parts:
            assert 0.99 * bound < float(part.abs().max()) <= bound * (1 + 1e-5)
            assert float(part.mean()) == pytest.approx(0, abs=0.05 * bound)
            assert float(part.std()) == pytest.approx(bound / 3**0.5, rel=0.05)
    drawn = torch.stack([part for parts in columns.values() for part in parts])
    assert float((torch.corrcoef(drawn) - torch.eye(len(drawn))).abs().max()) < 0.06
    assert (ANGLE, SHIFT, SCALE, BRIGHTNESS, CONTRAST) == (5.0, 0.04, 0.05, 0.1, 0.1)


def test_sides_are_kept() -> None:
    """A picture whose left is light: after any drawn change it is nearer to itself than to its mirror image, and its left is light."""
    picture = (blob(0.25, 0.4) + blob(0.3, 0.7)).expand(200, -1, -1)
    changed = Changes.drawn(200, np.random.default_rng(1)).of(picture)
    to_itself, to_mirror = ((changed - other).square().sum((1, 2)) for other in (picture, picture.flip(2)))
    assert bool((to_itself < to_mirror / 2).all())
    assert bool((changed[:, :, : SIDE // 2].sum((1, 2)) > 10 * changed[:, :, SIDE // 2 :].sum((1, 2))).all())
    assert bool((to_itself > 0.1).all())


@given(rows=st.lists(st.integers(0, 5), min_size=1, max_size=12), marked=st.sets(st.integers(0, 5)))
def test_first_visit_of_a_marked_film_takes_its_mark(rows: list[int], marked: set[int]) -> None:
    films = MarkedFilms(6, seed=0)
    films.mark(np.array(sorted(marked), dtype=np.int64))
    places = films.taken(np.array(rows))
    assert places.tolist() == sorted(rows.index(film) for film in marked & set(rows))
    assert set(np.flatnonzero(films.marks_N).tolist()) == marked - set(rows)


def test_restored_marks_go_on() -> None:
    first, second = MarkedFilms(4, seed=0), MarkedFilms(4, seed=9)
    first.mark(np.array([1, 3]))
    picture = blob(0.3, 0.6).expand(2, -1, -1)
    first.changed(picture)
    kept = first.state().copied()
    second.restore(State(kept.tensors, json.loads(json.dumps(kept.facts))))
    assert torch.equal(first.changed(picture), second.changed(picture))
    assert not torch.equal(first.changed(picture), MarkedFilms(4, seed=0).changed(picture))
    assert first.taken(np.arange(4)).tolist() == second.taken(np.arange(4)).tolist() == [1, 3]
    assert MarkedFilms(4, seed=0).taken(np.arange(4)).tolist() == []
