"""The names of rewards, those of plug-ins included, without loading any; free of tensor libraries, so that the HTTP surface can read it."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Final, Literal

Direction = Literal["minimize", "maximize"]

ENTRY_POINTS: Final = "lethe.rewards"

MEMORIZATION: Final[dict[str, Direction]] = {
    "memorization": "minimize",
    "noise_magnitude": "minimize",
    "copy_rate": "minimize",
    "amd": "maximize",
    "extraction": "minimize",
    "membership_advantage": "minimize",
}
QUALITY: Final[dict[str, Direction]] = {
    "fid": "minimize",
    "kid": "minimize",
    "finding_agreement": "maximize",
    "prompt_agreement": "maximize",
    "precision": "maximize",
    "recall": "maximize",
    "density": "maximize",
    "coverage": "maximize",
}
NEIGHBOURS: Final = 5  # k of Naeem et al.: a ball reaches to this neighbour
BY_BALLS: Final = ("precision", "recall", "density", "coverage")  # of more points than a point has such neighbours
BUILT_IN: Final[dict[str, Direction]] = MEMORIZATION | QUALITY


def known_rewards() -> list[str]:
    """All that can be asked for: those of Lethe, and those that installed distributions bring."""
    plugged = sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)})
    return [*BUILT_IN, *(name for name in plugged if name not in BUILT_IN)]
