"""The picture is drawn, every contender has a colour, and its names keep their distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.memcontrol.contenders import CONTENDERS
from benchmarks.memcontrol.picture import COLOURS, GAP, at_steps, draw_picture
from tests.benchmarks.memcontrol.made_up import seed_of

if TYPE_CHECKING:
    from pathlib import Path


def test_every_contender_has_a_colour_and_all_names_fit_into_a_panel() -> None:
    assert COLOURS.keys() == {contender.name for contender in CONTENDERS}
    assert (len(CONTENDERS) - 1) * GAP <= 1


def test_curve_keeps_what_the_last_training_left() -> None:
    assert at_steps([(10, 0.2), (20, 0.5)], [0, 9, 10, 19, 20, 99]) == [0, 0, 0.2, 0.2, 0.5, 0.5]


def test_picture_shows_curves_and_fronts(tmp_path: Path) -> None:
    points = {"ours": [(0.5, 0.5), (0.1, 0.9)], "NSGA-II": [(0.6, 0.6)], "full": [(0.9, 0.4)], "SV-DIFF": [(0.2, 0.9), (0.3, 0.8)]}
    draw_picture([seed_of(points, {}, {}, seed) for seed in (0, 1)], tmp_path / "made.png")
    with Image.open(tmp_path / "made.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    for name in points:
        colour = np.array([int(COLOURS[name][place : place + 2], 16) for place in (1, 3, 5)])
        for half in (pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]):
            assert (np.abs(half - colour).sum(2) < 40).sum() > 20, name
