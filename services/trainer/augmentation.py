"""Films whose loss came near the limit of anti-gradient control are shown changed a little at their next visit.

The idea, threshold-aware augmentation, is of IET-AGC+ (Guan et al. 2025), which published no more of it: when a film is marked, and what
is changed by how much, is our reconstruction. Nothing is mirrored, for a film's sides are part of what its prompt says.

N films, B films that are changed, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from shared.diffusion.checkpoints import State

ANGLE: Final = 5.0  # degrees, either way
SHIFT: Final = 0.04  # of the side, along each axis
SCALE: Final = 0.05
BRIGHTNESS: Final = 0.1
CONTRAST: Final = 0.1
_STREAM: Final = 6  # parts these random numbers from a training's others


@dataclass(frozen=True)
class Changes:
    """How each film is changed: turned by degrees, moved by shares of its side, made larger, brighter and richer in contrast."""

    angles_B: Tensor
    shifts_B2: Tensor
    scales_B: Tensor
    brightness_B: Tensor
    contrast_B: Tensor

    @classmethod
    def drawn(cls, count: int, generator: np.random.Generator) -> Self:
        """Of every film its own, each number uniform in its bounds."""
        angles, right, down, scales, brightness, contrast = torch.from_numpy(generator.uniform(-1, 1, (count, 6)).astype(np.float32)).T
        shifts = torch.stack([right, down], dim=1)
        return cls(ANGLE * angles, SHIFT * shifts, 1 + SCALE * scales, 1 + BRIGHTNESS * brightness, 1 + CONTRAST * contrast)

    def of(self, images_BHW: Tensor) -> Tensor:
        """The changed pictures, in [0, 1] like these; beyond its edges a picture goes on as it ends."""
        turned, grid_scale = self.angles_B * (math.pi / 180), 1 / self.scales_B
        cos, sin = grid_scale * turned.cos(), grid_scale * turned.sin()
        # Where each new pixel comes from, in coordinates from −1 to 1: S⁻¹R⁻¹(x − shift).
        matrix_B22 = torch.stack([torch.stack([cos, sin], dim=1), torch.stack([-sin, cos], dim=1)], dim=1)
        origin_B21 = -matrix_B22 @ (2 * self.shifts_B2)[:, :, None]
        images_B1HW = images_BHW[:, None]
        places = F.affine_grid(torch.cat([matrix_B22, origin_B21], dim=2), list(images_B1HW.shape), align_corners=False)
        moved_BHW = F.grid_sample(images_B1HW, places, mode="bilinear", padding_mode="border", align_corners=False)[:, 0]
        mean_B11 = moved_BHW.mean((1, 2), keepdim=True)
        contrast_B11, brightness_B11 = self.contrast_B[:, None, None], self.brightness_B[:, None, None]
        return (((moved_BHW - mean_B11) * contrast_B11 + mean_B11) * brightness_B11).clamp(0, 1)


class MarkedFilms:
    """Films whose next visit shows them changed; the marks lie where batches are dealt, beside no device."""

    def __init__(self, count: int, seed: int) -> None:
        """Nothing marked yet."""
        self.marks_N: NDArray[np.bool_] = np.zeros(count, dtype=np.bool_)
        self.generator = np.random.default_rng([seed, _STREAM])

    def taken(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places of a batch at which a marked film comes, the first of each; their marks are cleared."""
        films, first = np.unique(rows, return_index=True)
        places = np.sort(first[self.marks_N[films]])
        self.marks_N[rows[places]] = False
        return places

    def changed(self, images_BHW: Tensor) -> Tensor:
        """These pictures, changed by the next random numbers."""
        return Changes.drawn(len(images_BHW), self.generator).of(images_BHW)

    def mark(self, rows: NDArray[np.int64]) -> None:
        """Show these films changed when they come next."""
        self.marks_N[rows] = True

    def state(self) -> State:
        """The marks, and where the generator is."""
        return State({"marks": torch.from_numpy(self.marks_N.copy())}, {"generator": self.generator.bit_generator.state})

    def restore(self, state: State) -> None:
        """Go on from there."""
        self.marks_N = state.tensors["marks"].numpy().copy()
        self.generator.bit_generator.state = state.facts["generator"]
