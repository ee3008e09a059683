"""The site embedder: a small contrastive network that learns from a data set's own films which pictures are the same film.

After Dar et al. (Nat. Biomed. Eng. 2025): NT-Xent on augmented pairs, Pearson correlation of the codes as similarity.
A second head learns which films are of the same patient. B batch, N films, H height, W width, D code features.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.diffusion.optimisation import Optimisation, optimise

CODE: Final = 128
TEMPERATURE: Final = 0.07
STEPS: Final = 250
BATCH: Final = 64
RATE: Final = 2e-3


class SiteEmbedder(nn.Module):
    """A convolutional trunk with a copy head and an identity head; codes are centred and of unit length."""

    def __init__(self, width: int = 24) -> None:
        """Build with random weights."""
        super().__init__()
        channels = [1, width, 2 * width, 4 * width, 4 * width]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(channels):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()]
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.copy_head = nn.Linear(channels[-1] * 16, CODE)
        self.identity_head = nn.Linear(channels[-1] * 16, CODE)

    def forward(self, images_BHW: Tensor) -> tuple[Tensor, Tensor]:
        """Grey images in [0, 1] → (copy code, identity code), each B×D, so that a dot product is a Pearson correlation."""
        features = self.trunk(images_BHW[:, None] * 2 - 1)
        return _standardised(self.copy_head(features)), _standardised(self.identity_head(features))

    @torch.no_grad()
    def embed(self, images_NHW: NDArray[np.uint8], batch_size: int = 256) -> tuple[Tensor, Tensor]:
        """Codes of many images, N×D each."""
        parts = [self(torch.from_numpy(images_NHW[i : i + batch_size]).float() / 255) for i in range(0, len(images_NHW), batch_size)]
        return torch.cat([copy for copy, _ in parts]), torch.cat([identity for _, identity in parts])


def train_site_embedder(
    images_NHW: NDArray[np.uint8], patients: list[str], seed: int, on_step: Callable[[int, Tensor], None], steps: int = STEPS
) -> SiteEmbedder:
    """Train on one film a code: positives of the copy head are augmentations, of the identity head other films of the patient."""
    torch.manual_seed(seed)
    embedder = SiteEmbedder()
    images = torch.from_numpy(images_NHW)
    generator = np.random.default_rng(seed)
    noise = torch.Generator().manual_seed(seed)
    films_of: dict[str, list[int]] = {}
    for index, patient in enumerate(patients):
        films_of.setdefault(patient, []).append(index)
    identities = list(films_of)

    def loss(_step: int) -> Tensor:
        chosen = generator.choice(len(identities), min(BATCH, len(identities)), replace=False)  # distinct patients: negatives are strangers
        pairs = [generator.choice(films_of[identities[i]], 2, replace=len(films_of[identities[i]]) < 2) for i in chosen]
        first, second = (images[[pair[k] for pair in pairs]].float() / 255 for k in (0, 1))
        copy_a, identity_a = embedder(augmented(first, noise))
        copy_b, _ = embedder(augmented(first, noise))
        copy_other, identity_b = embedder(augmented(second, noise))
        different = torch.tensor([pair[0] != pair[1] for pair in pairs])
        return nt_xent(copy_a, copy_b, hard_negatives=copy_other[different]) + nt_xent(identity_a, identity_b)

    optimise([embedder], loss, Optimisation(steps, RATE), on_step)
    return embedder


def nt_xent(left_BD: Tensor, right_BD: Tensor, hard_negatives: Tensor | None = None) -> Tensor:
    """ℓ_i = −ln(exp(s(u_i, u_i⁺)/τ) / Σ_k exp(s(u_i, u_k)/τ)), s the correlation (Chen et al. 2020), plus further negatives."""
    candidates = right_BD if hard_negatives is None else torch.cat([right_BD, hard_negatives])
    return F.cross_entropy(left_BD @ candidates.T / TEMPERATURE, torch.arange(len(left_BD)))


def augmented(images_BHW: Tensor, generator: torch.Generator) -> Tensor:
    """What a copy may undergo: rotation ±4°, crop, shift, brightness and contrast ±10 %, blur, noise. Never a flip: it moves the heart."""
    count = len(images_BHW)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    angle, zoom = uniform(-0.07, 0.07), uniform(0.94, 1.04)
    affine = torch.zeros(count, 2, 3)
    affine[:, 0, 0] = affine[:, 1, 1] = angle.cos() * zoom
    affine[:, 0, 1], affine[:, 1, 0] = -angle.sin() * zoom, angle.sin() * zoom
    affine[:, 0, 2], affine[:, 1, 2] = uniform(-0.04, 0.04), uniform(-0.04, 0.04)
    grid = F.affine_grid(affine, [count, 1, *images_BHW.shape[1:]], align_corners=False)
    moved = F.grid_sample(images_BHW[:, None], grid, align_corners=False, padding_mode="border")[:, 0]
    blurred = F.avg_pool2d(moved[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    soft = uniform(0, 1)[:, None, None]
    toned = (moved * (1 - soft) + blurred * soft - 0.5) * uniform(0.9, 1.1)[:, None, None] + 0.5 + uniform(-0.1, 0.1)[:, None, None]
    return (toned + 0.02 * torch.randn(toned.shape, generator=generator)).clamp(0, 1)


def _standardised(codes_BD: Tensor) -> Tensor:
    return F.normalize(codes_BD - codes_BD.mean(1, keepdim=True), dim=1)
