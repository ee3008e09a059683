"""Verdicts follow from the figures: each claim is met, not met or undecided by units that are made so."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.memorization.verdicts import Verdict, verdicts

SEEDS = (0, 1, 2)


def units(share: float, fid: float, fraction: float = 1.0) -> list[dict[str, Any]]:
    return [
        {"seed": seed, "copies_by_canary": [share - 0.05, share, share + 0.05, share], "fid": fid, "trainable_fraction": fraction}
        for seed in SEEDS
    ]


def verdict_on(rows: dict[str, list[dict[str, Any]]], claim: str, setting: str = "fine-tuned") -> Verdict:
    (found,) = [v for v in verdicts({(setting, name): row for name, row in rows.items()}) if claim in v.claim]  # type: ignore[misc]
    assert found.setting == setting
    return found


@pytest.mark.parametrize(
    ("score", "fid", "outcome"),
    [(0.1, 0.52, "met"), (0.1, 0.53, "not met"), (0.3, 0.4, "not met"), (0.18, 0.5, "met"), (0.2, 0.5, "not met")],
)
def test_strong_reduction_needs_four_fifths_less_at_nearly_the_same_fid(score: float, fid: float, outcome: str) -> None:
    found = verdict_on({"plain": units(0.95, 0.5), "IET-AGC+": units(score, fid)}, "at least 80%")
    assert found.outcome == outcome
    assert f"{fid / 0.5 - 1:+.1%}" in found.figures


@pytest.mark.parametrize(
    ("score", "fid", "fraction", "outcome"),
    [
        (0.4, 0.5, 0.009, "met"),
        (0.4, 0.51, 0.009, "not met"),
        (0.5, 0.4, 0.009, "not met"),
        (0.1, 0.4, 0.02, "undecided"),
    ],
)
def test_small_part_must_be_small_copy_half_and_draw_no_worse(score: float, fid: float, fraction: float, outcome: str) -> None:
    found = verdict_on({"plain": units(0.9, 0.5), "SV-DIFF": units(score, fid, fraction)}, "less than half as often")
    assert found.outcome == outcome


def test_one_small_part_of_several_is_enough() -> None:
    rows = {
        "plain": units(0.9, 0.5),
        "SV-DIFF": units(0.8, 0.6, 0.003),
        "LoRA r=4": units(0.2, 0.45, 0.004),
        "attention": units(0.1, 0.1, 0.5),
    }
    found = verdict_on(rows, "less than half as often")
    assert found.outcome == "met"
    assert "SV-DIFF" in found.figures
    assert "attention" not in found.figures


@pytest.mark.parametrize(("score", "outcome"), [(0.6, "met"), (0.9, "undecided"), (0.95, "not met")])
def test_direction_is_met_where_the_interval_of_the_difference_is_below_zero(score: float, outcome: str) -> None:
    assert verdict_on({"plain": units(0.9, 0.5), "AGC": units(score, 0.5)}, "AGC copies less").outcome == outcome


def test_direction_is_undecided_where_canaries_disagree() -> None:
    torn = [unit | {"copies_by_canary": [0.0, 1.0, 1.0, 1.0]} for unit in units(0.9, 0.5)]
    found = verdict_on({"plain": units(0.8, 0.5), "AGC": torn}, "AGC copies less")
    assert found.outcome == "undecided"


def test_nothing_copied_at_first_cannot_be_reduced() -> None:
    none = [unit | {"copies_by_canary": [0.0] * 4} for unit in units(0.5, 0.5)]
    assert verdict_on({"plain": none, "IET-AGC+": none}, "at least 80%").outcome == "undecided"


def test_ensembles_are_judged_beside_plain_training_in_their_own_batches_too() -> None:
    rows = {"plain": units(0.9, 0.5), "plain, batches of 4": units(0.3, 0.5), "IET-AGC+": units(0.1, 0.5), "AGC": units(0.3, 0.5)}
    assert verdict_on(rows, "score of plain by at least").outcome == "met"
    assert verdict_on(rows, "score of plain, batches of 4 by at least").outcome == "not met"  # two thirds less
    assert verdict_on(rows, "IET-AGC+ copies less than plain, batches of 4").outcome == "met"
    told = {v.claim for v in verdicts({("fine-tuned", name): row for name, row in rows.items()})}
    assert "AGC copies less than plain, batches of 4" not in told


def test_small_part_of_nothing_copied_is_undecided() -> None:
    none = [unit | {"copies_by_canary": [0.0] * 4} for unit in units(0.5, 0.5)]
    assert verdict_on({"plain": none, "SV-DIFF": units(0.1, 0.4, 0.003)}, "less than half as often").outcome == "undecided"


def test_without_plain_training_there_is_nothing_to_compare_with() -> None:
    assert verdicts({("fine-tuned", "AGC"): units(0.1, 0.5)}) == []
