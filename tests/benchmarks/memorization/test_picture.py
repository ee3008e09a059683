"""The picture is drawn, and its names keep their distance."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.memorization.methods import METHODS, SETTINGS
from benchmarks.memorization.picture import GAP, KINDS, draw_picture, kind_of, spaced

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("seed", range(5))
def test_heights_keep_their_gap_and_stay_inside(seed: int) -> None:
    wanted = sorted(np.random.default_rng(seed).beta(0.4, 0.4, 20).tolist())
    placed = spaced(wanted, GAP)
    assert all(upper - lower >= GAP - 1e-9 for lower, upper in pairwise(placed))
    assert placed[0] >= 0
    assert placed[-1] <= 1


def test_heights_that_are_far_enough_apart_stay_where_they_are() -> None:
    assert spaced([0.1, 0.5, 0.9], 0.05) == [0.1, 0.5, 0.9]


def test_heights_at_the_top_are_pushed_down_and_at_the_bottom_up() -> None:
    assert spaced([1.0, 1.0, 1.0], 0.1) == pytest.approx([0.8, 0.9, 1.0])
    assert spaced([0.0, 0.0], 0.1) == pytest.approx([0.0, 0.1])


def test_every_method_has_a_family_and_all_names_fit_into_a_panel() -> None:
    assert {kind_of(method.asks) for method in METHODS} <= set(KINDS)
    for setting in SETTINGS:
        assert (sum(setting in method.settings for method in METHODS) - 1) * GAP <= 1
    assert kind_of({}) == "all of the denoiser"
    assert kind_of({"ensemble": {}, "batch_filter": {}}) == "ensemble"
    assert kind_of({"parameters": {}, "captions": []}) == "combination"


def test_picture_shows_a_panel_a_setting(tmp_path: Path) -> None:
    def row(setting: str, method: str, score: float) -> dict[str, Any]:
        fid = {"mean": 0.5 + score / 3, "low": 0.45, "high": 0.9, "n": 3}
        copies = {"value": score, "low": score / 2, "high": 1.0, "n": 48}
        return {"setting": setting, "method": method, "copies": copies, "fid": fid, "fid_floor": {"mean": 0.1}}

    asks = {"plain": {}, "AGC": {"batch_filter": {}}}
    draw_picture([row("fine-tuned", "plain", 0.9), row("fine-tuned", "AGC", 0.9)], asks, tmp_path / "one.png")
    draw_picture([row(s, m, 0.5) for s in ("from scratch", "fine-tuned") for m in asks], asks, tmp_path / "two.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert two.width == 2 * one.width
        orange = np.array([0xD5, 0x5E, 0x00])  # a batch filter's
        assert (np.abs(np.asarray(one.convert("RGB")).astype(int) - orange).sum(2) < 30).sum() > 50
