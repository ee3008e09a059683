"""What all models of one data set are measured against, made once: films that they learnt and did not learn, and real features.

N films, D code features.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Self

import numpy as np
from safetensors.numpy import load_file, save_file

from shared.errors import ConflictError
from shared.memorization.distances import Floats
from shared.memorization.extraction import edge_limit
from shared.memorization.frechet_distance import frechet_distance
from shared.memorization.galleries import FilmSet, Gallery, site_features
from shared.memorization.kernel_distance import kernel_distance
from shared.memorization.manifold import Manifold
from shared.memorization.rewards.effort import Effort

FEWEST: Final = 2  # films that a distance between two sets needs of each
_FEATURES: Final = "features.safetensors"
_FACTS: Final = "reference.json"


@dataclass(frozen=True)
class Reference:
    """Canaries are learnt again and again, controls never; images of the controls' prompts are compared with real films of others.

    `edge_limit` is the tile distance below which two images are one, `floors` what real films of the controls score for images.
    """

    gallery: Gallery
    canaries: FilmSet
    controls: FilmSet
    real_features_ND: Floats
    real_patients: list[str]
    edge_limit: float
    floors: dict[str, float]

    @classmethod
    def of(cls, gallery: Gallery, canaries: FilmSet, controls: FilmSet, others: FilmSet, training: FilmSet, effort: Effort) -> Self:
        """`controls` are of the fold `calibration` and `others` of `evaluation`; `training` is all that is learnt from."""
        if not canaries.records:
            raise ConflictError("The data set has no canaries, on which memorization is measured; register it with some.")
        if min(len(controls.records), len(others.records)) < FEWEST:
            raise ConflictError(
                f"The data set has fewer than {FEWEST} control films in a fold; register it with a larger control_fraction."
            )
        chosen = _some(controls, effort)
        real_ND, like_real_ND = site_features(gallery, others.images_NHW), site_features(gallery, chosen.images_NHW)
        floors = {
            "fid": frechet_distance(like_real_ND, real_ND),
            "kid": kernel_distance(unit_variance(like_real_ND), unit_variance(real_ND)),
        }
        limit = edge_limit(chosen.images_NHW, training.images_NHW)
        return cls(gallery, canaries, chosen, real_ND, others.patients, limit, floors)

    @cached_property
    def real_manifold(self) -> Manifold:
        """The balls around real films."""
        try:
            return Manifold.of(self.real_features_ND)
        except ValueError as error:
            raise ConflictError(f"The control films of the fold evaluation are too few for precision and recall: {error}.") from error

    def save(self, folder: Path) -> None:
        """What took long to make, and which films it was made of; pictures and gallery stay in the catalog."""
        save_file({"real": self.real_features_ND}, folder / _FEATURES)
        facts = {
            "canaries": self.canaries.records,
            "controls": self.controls.records,
            "real_patients": self.real_patients,
            "edge_limit": self.edge_limit,
            "floors": self.floors,
        }
        (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, gallery: Gallery, read_films: Callable[[Sequence[int]], FilmSet]) -> Self:
        """What `save` wrote, with its films by their records."""
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        return cls(
            gallery=gallery,
            canaries=read_films(facts["canaries"]),
            controls=read_films(facts["controls"]),
            real_features_ND=load_file(folder / _FEATURES)["real"],
            real_patients=facts["real_patients"],
            edge_limit=facts["edge_limit"],
            floors=facts["floors"],
        )


def unit_variance(codes_ND: Floats) -> Floats:
    """Codes of unit length, as features whose entries have variance 1: what the cubic kernel is made for."""
    scaled_ND: Floats = codes_ND * codes_ND.shape[1] ** 0.5
    return scaled_ND


def _some(films: FilmSet, effort: Effort) -> FilmSet:
    """As many of the films as the effort allows, in their order."""
    count = min(effort.control_prompts, len(films.records))
    rows = sorted(np.random.default_rng(effort.seed).choice(len(films.records), count, replace=False).tolist())
    return FilmSet(
        [films.records[row] for row in rows],
        [films.patients[row] for row in rows],
        [films.prompts[row] for row in rows],
        films.images_NHW[rows],
    )
