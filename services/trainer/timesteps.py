"""Which noise levels are learnt from: densities of timesteps."""

from __future__ import annotations

import math
from typing import Final, Protocol

import torch
from torch import Tensor

U_SHAPE: Final = 4.0  # κ: the ends are drawn cosh(κ/2) = 3.76 times as often as the middle


class TimestepDensity(Protocol):
    """Which timesteps are drawn."""

    def __call__(self, count: int, total: int, generator: torch.Generator) -> Tensor:
        """`count` integers in [0, total)."""
        ...


def uniform_timesteps(count: int, total: int, generator: torch.Generator) -> Tensor:
    """t ~ U{0, …, total−1} (Ho et al. 2020, algorithm 1)."""
    return torch.randint(0, total, (count,), generator=generator)


def u_shaped_timesteps(count: int, total: int, generator: torch.Generator) -> Tensor:
    """Density ∝ e^{κu} + e^{κ(1−u)} over u = t/total, by its inverse: u = ½ + asinh((2r−1) sinh(κ/2))/κ of uniform r.

    The middle of a trajectory, where memorization sets in, is seen less. Published for rectified flow; κ here is ours.
    """
    r = torch.rand(count, generator=generator, dtype=torch.float64)
    u = 0.5 + torch.asinh((2 * r - 1) * math.sinh(U_SHAPE / 2)) / U_SHAPE
    return (u * total).long().clamp(0, total - 1)
