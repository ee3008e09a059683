"""Matching: which training films an image resembles, and whether it is a copy of one or shows the same patient.

M queries, H height, W width, D code features, K candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shared.memorization.galleries import Gallery
from shared.memorization.nearest_codes import most_similar
from shared.memorization.thresholds import Images
from shared.memorization.tile_distance import paired_tile_max_distance

Verdict = Literal["copy", "same_patient", "none"]

# A copy is among the most similar films of the whole gallery; more are looked at than shown, since tile distance may rank them anew.
CANDIDATES: Final = 32
GRAVITY: Final[tuple[Verdict, ...]] = ("copy", "same_patient", "none")


@dataclass(frozen=True)
class Neighbour:
    """A training film beside an image."""

    record: int
    patient: str
    similarity: float
    identity_similarity: float
    tile_distance: float
    verdict: Verdict


def fit_to_gallery(image_HW: Images, gallery: Gallery) -> Images:
    """The picture as the gallery's films were read: scaled so that the short side fits, cropped at the centre."""
    size = gallery.codes.images_NHW.shape[1:]
    if image_HW.shape == size:
        return image_HW
    picture = Image.fromarray(image_HW)
    short = min(picture.size)
    left, top = (picture.width - short) / 2, (picture.height - short) / 2
    fitted = picture.resize((size[1], size[0]), Image.Resampling.LANCZOS, box=(left, top, left + short, top + short))
    return np.asarray(fitted)


def match(gallery: Gallery, images_MHW: Images, k: int) -> list[list[Neighbour]]:
    """Each image's k nearest films, as `shown` picks them."""
    return [shown(neighbours, k) for neighbours in candidates(gallery, images_MHW, k)]


def candidates(gallery: Gallery, images_MHW: Images, k: int) -> list[list[Neighbour]]:
    """The films that each image is compared with: at least the k nearest of the whole gallery by either head."""
    copy_MD, identity_MD = gallery.embedder.embed(images_MHW)
    by_copy_MK = most_similar(copy_MD, gallery.codes.copy_ND, max(k, CANDIDATES))[1]
    by_identity_MK = most_similar(identity_MD, gallery.codes.identity_ND, max(k, CANDIDATES))[1]
    compared = []
    for row, image_HW in enumerate(images_MHW):
        candidates_K = torch.unique(torch.cat([by_copy_MK[row], by_identity_MK[row]]))
        compared.append(_judge(gallery, image_HW, copy_MD[row], identity_MD[row], candidates_K))
    return compared


def shown(neighbours: list[Neighbour], k: int) -> list[Neighbour]:
    """The k nearest: copies first, then by similarity.

    Of films beyond the k most similar ones, the most alike of the same patient takes the last place, lest it go unseen.
    """
    ranked = sorted(neighbours, key=lambda n: (n.verdict != "copy", -n.similarity, n.record))
    nearest = ranked[:k]
    unseen = [n for n in ranked[k:] if n.verdict == "same_patient"]
    if unseen and all(n.verdict == "none" for n in nearest):
        nearest[-1] = max(unseen, key=lambda n: n.identity_similarity)
    return nearest


def gravest(neighbours: list[Neighbour]) -> Verdict:
    """The verdict on an image: the gravest of those on its neighbours."""
    return min((neighbour.verdict for neighbour in neighbours), key=GRAVITY.index)


def _judge(gallery: Gallery, image_HW: Images, copy_D: Tensor, identity_D: Tensor, candidates_K: Tensor) -> list[Neighbour]:
    codes, thresholds = gallery.codes, gallery.thresholds
    copy_K, identity_K = codes.copy_ND[candidates_K] @ copy_D, codes.identity_ND[candidates_K] @ identity_D
    films_KHW = torch.from_numpy(codes.images_NHW[candidates_K.numpy()])
    tile_K = paired_tile_max_distance(torch.from_numpy(image_HW).expand(len(films_KHW), -1, -1), films_KHW)
    neighbours = []
    for position, similarity, identity, tile in zip(
        candidates_K.tolist(), copy_K.tolist(), identity_K.tolist(), tile_K.tolist(), strict=True
    ):
        verdict: Verdict = "none"
        if similarity >= thresholds.copy and tile <= thresholds.tile_distance:
            verdict = "copy"
        elif identity >= thresholds.same_patient:
            verdict = "same_patient"
        neighbours.append(Neighbour(gallery.records[position], gallery.patients[position], similarity, identity, tile, verdict))
    return neighbours
