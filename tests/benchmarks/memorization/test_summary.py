"""Units over seeds: means and spreads are plain, intervals are over canaries, differences canary by canary."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.memorization.summary import copies, difference, over_seeds, spread


def unit(seed: int, shares: list[float], **figures: Any) -> dict[str, Any]:
    return {"method": "plain", "setting": "fine-tuned", "seed": seed, "copies_by_canary": shares, **figures}


def test_spread_is_mean_lowest_and_highest() -> None:
    assert spread([3.0, 1.0, 5.0]) == {"mean": 3.0, "low": 1.0, "high": 5.0, "n": 3}


def test_score_is_the_mean_over_all_canaries_with_an_interval_around_it() -> None:
    score = copies([unit(0, [1.0, 0.0, 0.5]), unit(1, [1.0, 1.0, 1.0])])
    assert score["value"] == pytest.approx(0.75)
    assert score["n"] == 6
    assert 0.4 < score["low"] < 0.75 < score["high"] <= 1.0


def test_interval_of_canaries_that_all_do_the_same_is_a_point() -> None:
    assert copies([unit(0, [0.25, 0.25]), unit(1, [0.25, 0.25])]) == {"value": 0.25, "low": 0.25, "high": 0.25, "n": 4}


def test_difference_is_taken_canary_by_canary() -> None:
    plain = [unit(0, [0.2, 0.9]), unit(1, [0.5, 1.0])]
    less = [unit(0, [0.1, 0.8]), unit(1, [0.4, 0.9])]
    apart = difference(less, plain)
    assert [apart[name] for name in ("value", "low", "high")] == pytest.approx([-0.1, -0.1, -0.1])


def test_difference_of_other_seeds_is_refused() -> None:
    with pytest.raises(ValueError, match="same seeds"):
        difference([unit(0, [1.0])], [unit(1, [1.0])])


def test_row_has_what_its_units_have() -> None:
    row = over_seeds([unit(0, [1.0, 0.0], fid=0.5, seconds=10.0), unit(2, [0.0, 0.0], fid=0.7, seconds=20.0)])
    assert (row["method"], row["setting"], row["seeds"]) == ("plain", "fine-tuned", [0, 2])
    assert row["fid"] == {"mean": pytest.approx(0.6), "low": 0.5, "high": 0.7, "n": 2}
    assert row["copies"]["value"] == pytest.approx(0.25)
    assert "trainable_fraction" not in row
