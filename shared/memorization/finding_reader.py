"""The finding reader: a small classifier, trained on the training labels, that says what an image shows.

N images, H height, W width, K items (a view, or a finding with its side).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.diffusion.optimisation import Optimisation, optimise
from shared.memorization.site_embedder import augmented

Item = tuple[str | None, ...]
STEPS: Final = 500
BATCH: Final = 64
RATE: Final = 3e-3


class FindingReader(nn.Module):
    """A convolutional network with one logit an item; `items` names them."""

    def __init__(self, items: Sequence[Item], width: int = 24) -> None:
        """Build with random weights."""
        super().__init__()
        self.items = [tuple(item) for item in items]
        channels = [1, width, 2 * width, 3 * width]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(channels):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.LazyLinear(len(items)))
        self.register_buffer("thresholds", torch.zeros(len(items)))

    def forward(self, images_NHW: Tensor) -> Tensor:
        """Grey images in [0, 1] → logits N×K."""
        return torch.as_tensor(self.layers(images_NHW[:, None] * 2 - 1))

    @torch.no_grad()
    def read(self, images_NHW: NDArray[np.uint8]) -> list[frozenset[Item]]:
        """What each image shows."""
        seen_NK = self(torch.from_numpy(images_NHW).float() / 255) > self.thresholds
        return [frozenset(item for item, yes in zip(self.items, row, strict=True) if yes) for row in seen_NK.tolist()]


def agreement(asked: frozenset[Item], seen: frozenset[Item]) -> float:
    """Dice overlap of what was asked for and what is seen: 1 when the image shows exactly that, 0 when nothing of it."""
    return 2 * len(asked & seen) / (len(asked) + len(seen)) if asked or seen else 1.0


def train_finding_reader(
    images_NHW: NDArray[np.uint8], shown: Sequence[frozenset[Item]], seed: int, on_step: Callable[[int, Tensor], None], steps: int = STEPS
) -> FindingReader:
    """Train on films and what their labels say they show; rare items are weighted up."""
    torch.manual_seed(seed)
    items = sorted({item for row in shown for item in row}, key=str)
    reader = FindingReader(items)
    targets_NK = torch.tensor([[item in row for item in items] for row in shown], dtype=torch.float32)
    images = torch.from_numpy(images_NHW)
    with torch.no_grad():
        reader(images[:1].float() / 255)  # gives the lazy layer its shape
    absent_K = (1 - targets_NK).sum(0).clamp(min=1)  # an item that every film shows still has to be learnt
    weight_K = (absent_K / targets_NK.sum(0)).sqrt()
    generator = np.random.default_rng(seed)
    noise = torch.Generator().manual_seed(seed)

    def loss(_step: int) -> Tensor:
        rows = generator.choice(len(images), min(BATCH, len(images)), replace=False)
        logits = reader(augmented(images[rows].float() / 255, noise))
        return F.binary_cross_entropy_with_logits(logits, targets_NK[rows], pos_weight=weight_K)

    optimise([reader], loss, Optimisation(steps, RATE, ema_decay=0.99), on_step)
    return reader
