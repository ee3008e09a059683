"""What is measured on: phantom films with prompts, and the tiny model with random weights. N films, H height, W width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from services.trainer.architectures import build_tiny
from services.trainer.training_set import TrainingSet
from shared.diffusion.model import Model
from shared.imaging.phantom import Film, draw, make_cohort
from shared.imaging.prompts import compose_impression, findings_of
from shared.imaging.splits import Candidate, Placement, place_films

IMAGE_SIZE: Final = 64


@dataclass(frozen=True)
class Films:
    """Phantom films with prompts and splits."""

    images_NHW: NDArray[np.uint8]
    prompts: list[str]
    patients: list[str]
    placements: list[Placement]

    @classmethod
    def placed(
        cls,
        images_NHW: NDArray[np.uint8],
        candidates: Sequence[Candidate],
        *,
        canaries: int,
        repeats: int,
        control_fraction: float,
        seed: int,
    ) -> Self:
        """Films split by patient, as a data set's are."""
        placements = place_films(candidates, control_fraction=control_fraction, canaries=canaries, repeats=repeats, seed=seed)
        return cls(images_NHW, [film.prompt for film in candidates], [film.patient for film in candidates], placements)

    def select(self, split: str, fold: str = "") -> list[int]:
        """Positions of a split, of one fold if given."""
        return [i for i, place in enumerate(self.placements) if place.split == split and fold in {"", place.fold}]

    @property
    def learnt(self) -> list[int]:
        """Positions of the films that are learnt from, canaries among them."""
        return sorted(self.select("train") + self.select("canary"))

    def training_set(self) -> TrainingSet:
        """Training films and canaries, each as often as it is repeated."""
        rows = self.learnt
        prompts = [self.prompts[i] for i in rows]
        return TrainingSet(
            images_NHW=self.images_NHW[rows],
            prompts=prompts,
            repeats=np.array([self.placements[i].repeats for i in rows]),
            patients=np.unique([self.patients[i] for i in rows], return_inverse=True)[1],
            strata=[", ".join(sorted(findings_of(prompt))) for prompt in prompts],
        )


class Phantom(Protocol):
    """What draws a cohort's films, split by patient."""

    def __call__(
        self, patients: int, seed: int, *, canaries: int = 0, repeats: int = 1, control_fraction: float = 0.0, image_size: int = IMAGE_SIZE
    ) -> Films:
        """Films of so many patients."""
        ...

    def __hash__(self) -> int:
        """Films that were drawn are kept by who drew them."""
        ...


def phantom_films(
    patients: int, seed: int, *, canaries: int = 0, repeats: int = 1, control_fraction: float = 0.0, image_size: int = IMAGE_SIZE
) -> Films:
    """A cohort's frontal films of the chest, split by patient."""
    films = [film for film in make_cohort(patients, seed) if film.view != "lateral"]
    candidates = [
        Candidate(key=str(film.accession), patient=str(film.patient.id), view=film.view, prompt=_prompt(film, seed)) for film in films
    ]
    images = np.stack([draw(film, image_size) for film in films])
    return Films.placed(images, candidates, canaries=canaries, repeats=repeats, control_fraction=control_fraction, seed=seed)


def random_model(prompts: list[str], seed: int, image_size: int = IMAGE_SIZE) -> Model:
    """The tiny model before training; its forward pass costs what a trained one's costs."""
    torch.manual_seed(seed)
    return build_tiny(prompts, image_size)


def _prompt(film: Film, seed: int) -> str:
    return compose_impression(
        view=film.view,
        sex=film.patient.sex,
        age=film.patient.age,
        findings=film.findings,
        normal=not film.findings,
        exam=film.accession,
        rng=np.random.default_rng([seed, film.accession]),
    )
