"""Deep pictures are stretched to brightness."""

from __future__ import annotations

import numpy as np

from shared.imaging.brightness import clip_brightness, stretch


def test_values_are_stretched_between_darkest_and_brightest() -> None:
    assert stretch(np.array([[100, 150, 300]], dtype=np.uint16)).tolist() == [[0, 0.25, 1]]


def test_unseen_values_stretch_nothing_and_are_cut_off() -> None:
    values, seen = np.array([[0, 100, 300, 4000]]), np.array([[False, True, True, False]])
    assert stretch(values, seen).tolist() == [[0, 0, 1, 1]]


def test_flat_and_unseen_pictures_are_black() -> None:
    assert stretch(np.full((2, 2), 700, dtype=np.uint16)).tolist() == [[0, 0], [0, 0]]
    assert stretch(np.zeros((1, 2)), np.zeros((1, 2), dtype=np.bool_)).tolist() == [[0, 0]]


def test_brightness_is_cut_off_in_place() -> None:
    bright = np.array([[-1, 0.5, 2]], dtype=np.float32)
    assert clip_brightness(bright) is bright
    assert bright.tolist() == [[0, 0.5, 1]]
