"""How much is drawn, trained and looked at: the regime in which the plain training copies most canaries and no control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Regime:
    """Everything that all methods have in common."""

    patients: int = 400
    others: int = 400  # patients of the base: none of them is among the former
    control_fraction: float = 0.5
    canaries: int = 16
    repeats: int = 40
    image_size: int = 32
    batch: int = 16
    steps: int = 480
    scratch_rate: float = 2e-3
    tuned_rate: float = 1e-3
    base_steps: int = 1000
    base_rate: float = 2e-3
    prompt_dropout: float = 0.1
    images_per_canary: int = 8
    clique: int = 4  # of so many images all but alike, a canary counts as extracted
    sampling_steps: int = 15
    guidance: float = 4.0
    screening_seeds: int = 4


FULL: Final = Regime()
QUICK: Final = Regime(
    patients=60,
    others=30,
    canaries=4,
    repeats=10,
    steps=24,
    base_steps=24,
    images_per_canary=4,
    clique=3,
    sampling_steps=4,
    screening_seeds=1,
)
