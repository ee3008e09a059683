"""Units of several seeds as one row a method: means with what they spread over, copies with their interval over canaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from shared.memorization.statistics import Estimate, Group, mean_interval

Unit = Mapping[str, Any]

FIGURES: Final = (
    "similarity",
    "similarity_tail",
    "tile_distance",
    "extracted",
    "score_auc",
    "canary_score",
    "control_score",
    "control_copies",
    "fid",
    "fid_floor",
    "agreement",
    "skipped_share",
    "trainable_parameters",
    "trainable_fraction",
    "step_seconds",
    "seconds",
)
"""What has a mean and a spread over seeds; what a method has not, such as a trained fraction of nothing trained, is left out."""


def over_seeds(units: Sequence[Unit]) -> dict[str, Any]:
    """One method in one setting: its figures over all seeds, and the memorization score with its interval."""
    first = units[0]
    row = {name: spread([unit[name] for unit in units]) for name in FIGURES if name in first}
    return {
        "method": first["method"],
        "setting": first["setting"],
        "seeds": [unit["seed"] for unit in units],
        "copies": copies(units),
    } | row


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, lowest and highest: of three seeds there is nothing finer to tell."""
    return {"mean": float(np.mean(values)), "low": float(np.min(values)), "high": float(np.max(values)), "n": len(values)}


def copies(units: Sequence[Unit]) -> Estimate:
    """The memorization score: the share of canary images that are copies, with its bootstrap interval over the canaries of all seeds."""
    shares, names = _by_canary(units)
    return mean_interval(Group(shares, names))


def difference(units: Sequence[Unit], plain: Sequence[Unit]) -> Estimate:
    """How much larger the memorization score is than that of other units of the same seeds, canary by canary."""
    (shares, names), (others, other_names) = _by_canary(units), _by_canary(plain)
    if names != other_names:
        raise ValueError("both need the same seeds in the same order: canaries are compared one by one")
    return mean_interval(Group([share - other for share, other in zip(shares, others, strict=True)], names))


def _by_canary(units: Sequence[Unit]) -> tuple[list[float], list[str]]:
    """Each canary's share of copies, and its name."""
    pairs = [(share, f"{unit['seed']}-{place}") for unit in units for place, share in enumerate(unit["copies_by_canary"])]
    return [share for share, _ in pairs], [name for _, name in pairs]
