"""Thresholds of similarity: what real films of other patients reach by chance, and what that costs in missed copies.

Every threshold comes from control films of the fold `calibration` against the whole gallery, as synthetic images meet it;
what the thresholds do is measured on the fold `evaluation`. M films, N gallery films, H height, W width, D code features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from shared.memorization.nearest_codes import most_similar
from shared.memorization.site_embedder import SiteEmbedder, augmented
from shared.memorization.statistics import Estimate, Group, rate, threshold_interval, upper_threshold
from shared.memorization.tile_distance import paired_tile_max_distance

# Share of different patients' films that may reach each threshold. A copy needs similarity and tile distance together, so the
# first bounds the rate of false copies; the second is looser because its only task is to overrule the embedder.
COPY_RATE: Final = 0.01
TILE_RATE: Final = 0.05
IDENTITY_RATE: Final = 0.01

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Codes:
    """The gallery as films are compared with: pictures and the codes of both heads."""

    images_NHW: Images
    copy_ND: torch.Tensor
    identity_ND: torch.Tensor


@dataclass(frozen=True)
class Thresholds:
    """A copy has at least this similarity and at most this tile distance; the same patient at least this identity similarity."""

    copy: float
    tile_distance: float
    same_patient: float


@dataclass(frozen=True)
class Strangers:
    """What each of M films reaches in a gallery of other patients."""

    similarity_M: NDArray[np.float64]
    tile_M: NDArray[np.float64]
    identity_M: NDArray[np.float64]


def nearest_strangers(embedder: SiteEmbedder, gallery: Codes, images_MHW: Images) -> Strangers:
    """Each film's largest copy similarity, the tile distance to that very film, and its largest identity similarity."""
    copy_MD, identity_MD = embedder.embed(images_MHW)
    similarity_M1, position_M1 = most_similar(copy_MD, gallery.copy_ND, 1)
    identity_M1, _ = most_similar(identity_MD, gallery.identity_ND, 1)
    nearest_MHW = torch.from_numpy(gallery.images_NHW[position_M1[:, 0].numpy()])
    tile_M = paired_tile_max_distance(torch.from_numpy(images_MHW), nearest_MHW)
    return Strangers(_floats(similarity_M1[:, 0]), _floats(tile_M), _floats(identity_M1[:, 0]))


def fit_thresholds(strangers: Strangers) -> Thresholds:
    """The thresholds that the stated shares of different patients' films reach at most."""
    return Thresholds(
        copy=upper_threshold(strangers.similarity_M, COPY_RATE),
        tile_distance=-upper_threshold(-strangers.tile_M, TILE_RATE),
        same_patient=upper_threshold(strangers.identity_M, IDENTITY_RATE),
    )


def copy_similarity_interval(strangers: Strangers, patients: Sequence[str]) -> Estimate:
    """The copy threshold with its interval over patients."""
    return threshold_interval(Group(strangers.similarity_M.tolist(), patients), COPY_RATE)


def false_positive_rates(strangers: Strangers, thresholds: Thresholds) -> dict[str, Estimate]:
    """How often films of other patients are called a copy, or the same patient."""
    copies_M = (strangers.similarity_M >= thresholds.copy) & (strangers.tile_M <= thresholds.tile_distance)
    same_M = strangers.identity_M >= thresholds.same_patient
    return {"false_copy_rate": _share(copies_M), "false_same_patient_rate": _share(same_M)}


def augmented_copy_recall(embedder: SiteEmbedder, images_MHW: Images, thresholds: Thresholds, seed: int) -> dict[str, Estimate]:
    """How often a film that was never trained on is recognised after rotation, crop, change of tone, blur and noise."""
    generator = torch.Generator().manual_seed(seed)
    changed_MHW = augmented(torch.from_numpy(images_MHW).float() / 255, generator).mul(255).round().to(torch.uint8)
    copy_MD, _ = embedder.embed(images_MHW)
    changed_MD, _ = embedder.embed(changed_MHW.numpy())
    similar_M = (copy_MD * changed_MD).sum(1).numpy() >= thresholds.copy
    close_M = paired_tile_max_distance(torch.from_numpy(images_MHW), changed_MHW).numpy() <= thresholds.tile_distance
    return {"augmented_copies_similar": _share(similar_M), "augmented_copies_found": _share(similar_M & close_M)}


def _share(hits_M: NDArray[np.bool_]) -> Estimate:
    return rate(int(hits_M.sum()), len(hits_M))


def _floats(values: torch.Tensor) -> NDArray[np.float64]:
    return np.asarray(values.double().numpy(), dtype=np.float64)
