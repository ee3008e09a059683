"""Starting noise: one CPU generator per image, so that an image depends on its own seed alone.

B batch, C latent channels, H latent height, W latent width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

SEED_LIMIT: Final = 2**53  # JSON numbers are exact up to here


def image_seed(request_seed: int, index: int) -> int:
    """The seed of image `index` of any prompt of a request."""
    return (request_seed + index) % SEED_LIMIT


def draw_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Standard normal noise x_T, one row per seed: B×C×H×W, fp32 on the CPU, for any batch size or device the same."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) for seed in seeds])
