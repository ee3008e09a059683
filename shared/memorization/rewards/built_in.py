"""The rewards that Lethe brings; `docs/rewards.md` tells what each one is and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from shared.errors import ConflictError
from shared.memorization.agreements import asked_items, compare
from shared.memorization.distances import least_distances
from shared.memorization.extraction import extracted_films
from shared.memorization.frechet_distance import frechet_interval
from shared.memorization.kernel_distance import kernel_interval
from shared.memorization.manifold import Manifold
from shared.memorization.rewards.evaluation import Evaluation
from shared.memorization.rewards.names import BUILT_IN, MEMORIZATION, NEIGHBOURS
from shared.memorization.rewards.reference import unit_variance
from shared.memorization.rewards.reward import Aspect, Direction
from shared.memorization.statistics import Estimate, Group, advantage_interval, difference_interval, mean_interval, rate

CLIQUE: Final = 3  # images of a prompt that must be alike to be one (MemControl's); fewer where fewer are drawn


@dataclass(frozen=True)
class BuiltIn:
    """A name, and how its figure is read off an evaluation."""

    name: str
    figure: Callable[[Evaluation], Estimate]

    @property
    def direction(self) -> Direction:
        """As `names` tells without a tensor library."""
        return BUILT_IN[self.name]

    @property
    def aspect(self) -> Aspect:
        """As `names` tells without a tensor library."""
        return "memorization" if self.name in MEMORIZATION else "quality"

    def __call__(self, evaluation: Evaluation) -> Estimate:
        """The figure with its interval."""
        return self.figure(evaluation)


# ---------------------------------------------------------------- memorization, on canaries


def memorization(evaluation: Evaluation) -> Estimate:
    """How far the prompt moves the prediction on canaries beyond what it does on films that were not learnt: d, members minus others."""
    reference = evaluation.reference
    canaries, controls = (noised.magnitudes_NK.mean(1).tolist() for noised in (evaluation.noised_canaries, evaluation.noised_controls))
    return difference_interval(Group(canaries, reference.canaries.patients), Group(controls, reference.controls.patients))


def noise_magnitude(evaluation: Evaluation) -> Estimate:
    """MemControl's own (Dutt et al., WACV 2025): d on canaries alone."""
    return _mean(evaluation.noised_canaries.magnitudes_NK.mean(1), evaluation.reference.canaries.patients)


def copy_rate(evaluation: Evaluation) -> Estimate:
    """The share of canaries' images that are copies of a training film."""
    copies = [nearest.verdict == "copy" for nearest in evaluation.canary_matches]
    found = _mean(copies, evaluation.patients_of_canary_images)
    if any(copies) and not all(copies):
        return found
    # Where all are alike resamples are too, and say nothing of a next canary: the exact interval of so many canaries does.
    canaries = len(evaluation.reference.canaries.records)
    exact = rate(canaries if any(copies) else 0, canaries)
    return Estimate(value=found["value"], low=exact["low"], high=exact["high"], n=found["n"])


def amd(evaluation: Evaluation) -> Estimate:
    """Average minimum distance (Dutt et al.): from canaries' images to the nearest training film, in the site embedder's codes."""
    training_ND = evaluation.reference.gallery.codes.copy_ND.double().numpy()
    return _mean(least_distances(evaluation.canary_features, training_ND), evaluation.patients_of_canary_images)


def extraction(evaluation: Evaluation) -> Estimate:
    """How many training films the canaries' prompts give up (Carlini et al., USENIX Security 2023), with the exact interval of a share."""
    reference, size = evaluation.reference, min(CLIQUE, evaluation.effort.images_per_canary)
    drawn = list(evaluation.canary_images)
    films = extracted_films(drawn, reference.gallery.codes.images_NHW, limit=reference.edge_limit, size=size)
    share = rate(len(films), len(drawn))
    return Estimate(value=len(films), low=share["low"] * len(drawn), high=share["high"] * len(drawn), n=len(drawn))


def membership_advantage(evaluation: Evaluation) -> Estimate:
    """How well the denoising loss tells canaries from controls: the largest TPR − FPR (Yeom et al., CSF 2018)."""
    reference = evaluation.reference
    canaries, controls = ((-noised.losses_NK.mean(1)).tolist() for noised in (evaluation.noised_canaries, evaluation.noised_controls))
    return advantage_interval(Group(canaries, reference.canaries.patients), Group(controls, reference.controls.patients))


# ---------------------------------------------------------------- quality, on controls


def fid(evaluation: Evaluation) -> Estimate:
    """The Fréchet distance of controls' images to real films (Heusel et al. 2017), in the site embedder's codes."""
    reference = evaluation.reference
    return frechet_interval(evaluation.control_features, reference.controls.patients, reference.real_features_ND)


def kid(evaluation: Evaluation) -> Estimate:
    """The kernel distance of controls' images to real films (Bińkowski et al. 2018): unbiased, for few images."""
    reference = evaluation.reference
    images_MD, real_ND = unit_variance(evaluation.control_features), unit_variance(reference.real_features_ND)
    return kernel_interval(images_MD, reference.controls.patients, real_ND)


def finding_agreement(evaluation: Evaluation) -> Estimate:
    """How much of the findings that controls' prompts ask for their images show."""
    return _agreement(evaluation, kind="finding")


def prompt_agreement(evaluation: Evaluation) -> Estimate:
    """How much of all that controls' prompts ask for their images show: findings and view."""
    return _agreement(evaluation, kind=None)


def precision(evaluation: Evaluation) -> Estimate:
    """The share of controls' images among real films (Kynkäänniemi et al. 2019)."""
    return _mean(_balls_around_images(evaluation) > 0, evaluation.reference.controls.patients)


def density(evaluation: Evaluation) -> Estimate:
    """How deep among real films controls' images lie (Naeem et al. 2020): 1 where they lie as real ones do."""
    return _mean(_balls_around_images(evaluation) / NEIGHBOURS, evaluation.reference.controls.patients)


def recall(evaluation: Evaluation) -> Estimate:
    """The share of real films among controls' images (Kynkäänniemi et al. 2019)."""
    try:
        images = Manifold.of(evaluation.control_features)
    except ValueError as error:
        raise ConflictError(f"The control prompts are too few for recall: {error}.") from error
    reference = evaluation.reference
    return _mean(images.balls_around(reference.real_features_ND) > 0, reference.real_patients)


def coverage(evaluation: Evaluation) -> Estimate:
    """The share of real films that have one of the controls' images near (Naeem et al. 2020)."""
    reference = evaluation.reference
    return _mean(reference.real_manifold.reached_by(evaluation.control_features), reference.real_patients)


REWARDS: Final = {
    figure.__name__: BuiltIn(figure.__name__, figure)
    for figure in (
        memorization,
        noise_magnitude,
        copy_rate,
        amd,
        extraction,
        membership_advantage,
        fid,
        kid,
        finding_agreement,
        prompt_agreement,
        precision,
        recall,
        density,
        coverage,
    )
}


def _balls_around_images(evaluation: Evaluation) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return evaluation.reference.real_manifold.balls_around(evaluation.control_features)


def _agreement(evaluation: Evaluation, *, kind: str | None) -> Estimate:
    """The mean overlap over prompts that ask for something of this kind, of all kinds without one."""
    controls, readable = evaluation.reference.controls, evaluation.reference.gallery.reader.items
    asked = [frozenset(item for item in asked_items(prompt) if kind in {None, item[0]}) for prompt in controls.prompts]
    found = [compare(wanted, seen, readable).value for wanted, seen in zip(asked, evaluation.control_items, strict=True)]
    judged = [(value, patient) for value, patient in zip(found, controls.patients, strict=True) if value is not None]
    if not judged:
        raise ConflictError(f"No control prompt names a {kind or 'view or a finding'}, so that agreement cannot be measured.")
    return _mean([value for value, _ in judged], [patient for _, patient in judged])


def _mean(values: ArrayLike, patients: Sequence[str]) -> Estimate:
    return mean_interval(Group(np.asarray(values, dtype=np.float64).tolist(), patients))
