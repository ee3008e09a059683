"""Whether what was to be shown was shown: each claim with its figures, judged by them and by nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from benchmarks.memorization.methods import BASELINE, ENSEMBLES, PARTS, PUBLISHED, SMALL_BATCHES, TUNED, Setting
from benchmarks.memorization.summary import copies, difference

Units = Mapping[tuple[Setting, str], Sequence[Mapping[str, Any]]]
"""The units of each setting and method, in the order of their seeds."""

Outcome = Literal["met", "not met", "undecided"]

REDUCTION: Final = 0.8  # of the memorization score by IET-AGC+
WORSE_FID: Final = 1.05
SMALL_PART: Final = 0.01  # of the trainable parameters
HALF: Final = 0.5


@dataclass(frozen=True)
class Verdict:
    """A claim, what came of it, and by which figures."""

    claim: str
    setting: Setting
    outcome: Outcome
    figures: str


def verdicts(units: Units) -> list[Verdict]:
    """All claims that the methods at hand allow to judge; ensembles also beside plain training in batches as small as theirs."""
    judged: list[Verdict] = []
    for setting in dict.fromkeys(setting for setting, _ in units):
        if (setting, BASELINE) not in units:
            continue
        plain = units[setting, BASELINE]
        small = {SMALL_BATCHES: units[setting, SMALL_BATCHES]} if (setting, SMALL_BATCHES) in units else {}
        if (setting, "IET-AGC+") in units:
            judged += [_strong_reduction(setting, units[setting, "IET-AGC+"], *other) for other in ({BASELINE: plain} | small).items()]
        parts = {name: units[setting, name] for name in PARTS if (setting, name) in units}
        if parts and setting in TUNED:
            judged.append(_small_part(setting, parts, plain))
        for name in PUBLISHED:
            if (setting, name) in units:
                others = {BASELINE: plain} | (small if name in ENSEMBLES else {})
                judged += [_direction(setting, name, units[setting, name], *other) for other in others.items()]
    return judged


def _strong_reduction(setting: Setting, units: Sequence[Mapping[str, Any]], other: str, plain: Sequence[Mapping[str, Any]]) -> Verdict:
    """IET-AGC+ against plain training."""
    score, before = copies(units)["value"], copies(plain)["value"]
    claim = f"IET-AGC+ lowers the memorization score of {other} by at least {REDUCTION:.0%} at FID within +{WORSE_FID - 1:.0%}"
    if before == 0:
        return Verdict(claim, setting, "undecided", f"{other} copied nothing")
    reduction, ratio = 1 - score / before, _fid_ratio(units, plain)
    met = reduction >= REDUCTION and ratio <= WORSE_FID
    figures = f"score {before:.1%} to {score:.1%} ({-reduction:+.0%}), {_interval(units, plain)}; FID {ratio - 1:+.1%}"
    return Verdict(claim, setting, "met" if met else "not met", figures)


def _small_part(setting: Setting, parts: Mapping[str, Sequence[Mapping[str, Any]]], plain: Sequence[Mapping[str, Any]]) -> Verdict:
    """Any part below one per cent against the whole."""
    before = copies(plain)["value"]
    told, met = [], False
    for name, units in parts.items():
        fraction = float(np.mean([unit["trainable_fraction"] for unit in units]))
        if fraction < SMALL_PART:
            score, ratio = copies(units)["value"], _fid_ratio(units, plain)
            met |= score < HALF * before and ratio <= 1
            told.append(f"{name} ({fraction:.2%}): {score:.1%}, FID {ratio - 1:+.1%}")
    claim = f"a part below {SMALL_PART:.0%} copies less than half as often as full fine-tuning at no worse FID"
    figures = f"full {before:.1%}; " + "; ".join(told) if told else f"no part is below {SMALL_PART:.0%}"
    return Verdict(claim, setting, ("met" if met else "not met") if told and before else "undecided", figures)


def _direction(setting: Setting, name: str, units: Sequence[Mapping[str, Any]], other: str, plain: Sequence[Mapping[str, Any]]) -> Verdict:
    """A published method copies less than plain training; undecided where the interval of the difference holds zero."""
    apart = difference(units, plain)
    outcome: Outcome = "met" if apart["high"] < 0 else "not met" if apart["low"] > 0 else "undecided"
    figures = (
        f"{copies(plain)['value']:.1%} to {copies(units)['value']:.1%}, {_interval(units, plain)}; FID {_fid_ratio(units, plain) - 1:+.1%}"
    )
    return Verdict(f"{name} copies less than {other}", setting, outcome, figures)


def _fid_ratio(units: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]]) -> float:
    """How many times larger the mean FID is."""
    return float(np.mean([unit["fid"] for unit in units]) / np.mean([unit["fid"] for unit in plain]))


def _interval(units: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]]) -> str:
    apart = difference(units, plain)
    return f"difference {apart['value'] * 100:+.1f} points [{apart['low'] * 100:+.1f}, {apart['high'] * 100:+.1f}]"
