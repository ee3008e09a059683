"""An evaluation: what a model draws and predicts, made when the first reward asks for it and kept for all others.

C canaries, I images of each, M control prompts, K pairs of timestep and noise, H height, W width, D code features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from shared.diffusion.generation import BatchObserver, batch_size, draw_in_batches
from shared.diffusion.guidance import ClassifierFreeGuidance
from shared.diffusion.model import Conditioning, Model
from shared.diffusion.noise import image_seed
from shared.diffusion.undisturbed import undisturbed
from shared.errors import ConflictError
from shared.memorization.agreements import Images
from shared.memorization.distances import Floats
from shared.memorization.finding_reader import Item
from shared.memorization.galleries import FilmSet, site_features
from shared.memorization.matching import Neighbour, match
from shared.memorization.noised_films import NoisedFilms, look_at_noised
from shared.memorization.rewards.effort import Effort
from shared.memorization.rewards.reference import Reference
from shared.memorization.rewards.reward import Reward
from shared.memorization.statistics import Estimate


class Evaluation:
    """All models of a search meet the same noises; images of canaries say what was learnt by heart, of controls how good they are."""

    def __init__(self, model: Model, reference: Reference, effort: Effort, on_batch: BatchObserver = lambda _count: None) -> None:
        """Make nothing yet; `on_batch` is told how many images or films each batch had, and may raise to stop."""
        self.model = model
        self.reference = reference
        self.effort = effort
        self.forward_passes = 0  # of one latent through the denoiser
        self._on_batch = on_batch

    @cached_property
    def canary_images(self) -> Images:
        """What the canaries' prompts give, C×I×H×W."""
        canaries, images = self.reference.canaries, self.effort.images_per_canary
        drawn = self._drawn(canaries, [*range(images)] * len(canaries.prompts))
        return drawn.reshape(len(canaries.prompts), images, *drawn.shape[1:])

    @cached_property
    def control_images(self) -> Images:
        """What the controls' prompts give, M×H×W, each from a noise of its own."""
        controls = self.reference.controls
        return self._drawn(controls, range(len(controls.prompts)))

    @cached_property
    def canary_matches(self) -> list[Neighbour]:
        """The nearest training film of each image of a canary, copies first; those of one canary in a row."""
        return [nearest for (nearest,) in match(self.reference.gallery, self._flat_canary_images, k=1)]

    @cached_property
    def canary_features(self) -> Floats:
        """Codes of the canaries' images, C·I×D."""
        return site_features(self.reference.gallery, self._flat_canary_images)

    @cached_property
    def control_features(self) -> Floats:
        """Codes of the controls' images, M×D."""
        return site_features(self.reference.gallery, self.control_images)

    @cached_property
    def control_items(self) -> list[frozenset[Item]]:
        """What the finding reader sees in the controls' images."""
        return self.reference.gallery.reader.read(self.control_images)

    @cached_property
    def noised_canaries(self) -> NoisedFilms:
        """Magnitudes and losses on the canaries' films, C×K each."""
        return self._noised(self.reference.canaries)

    @cached_property
    def noised_controls(self) -> NoisedFilms:
        """Magnitudes and losses on the controls' films, M×K each."""
        return self._noised(self.reference.controls)

    @property
    def patients_of_canary_images(self) -> list[str]:
        """The patient of each canary's images, as `canary_matches` has them."""
        return [patient for patient in self.reference.canaries.patients for _ in range(self.effort.images_per_canary)]

    @property
    def _flat_canary_images(self) -> Images:
        return self.canary_images.reshape(-1, *self.canary_images.shape[2:])

    def _drawn(self, films: FilmSet, numbers: Sequence[int]) -> Images:
        """Equally many images of each film's prompt, by the numbers of their noises; prompts too long are cut, as in training."""
        with self._watched():
            return draw_in_batches(
                self.model,
                self._encoded(films.prompts).repeat(len(numbers) // len(films.prompts)),
                [image_seed(self.effort.seed, number) for number in numbers],
                steps=self.effort.sampling_steps,
                guidance=ClassifierFreeGuidance(self.effort.guidance_scale),
                on_batch=self._on_batch,
            )

    def _encoded(self, prompts: Sequence[str]) -> Conditioning:
        """Any number of prompts, as many at a time as images are drawn."""
        size = batch_size(self.model)
        parts = [self.model.encode(prompts[start : start + size], truncate=True) for start in range(0, len(prompts), size)]
        return Conditioning(torch.cat([part.embeddings_BLE for part in parts]), torch.cat([part.token_ids_BL for part in parts]))

    def _noised(self, films: FilmSet) -> NoisedFilms:
        effort = self.effort
        with self._watched():
            return look_at_noised(
                self.model, films.images_NHW, films.prompts, pairs=effort.noises, seed=effort.seed, on_batch=self._on_batch
            )

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Count what the denoiser computes; what is no number would become a black image, which is nobody's copy, and is refused."""
        finite: list[Tensor] = []

        def after(_module: nn.Module, inputs: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
            self.forward_passes += len(inputs[0])
            finite.append(torch.isfinite(outputs[0]).all())

        hook = self.model.unet.register_forward_hook(after)
        try:
            yield
        finally:
            hook.remove()
        if finite and not torch.stack(finite).all():
            raise ConflictError("The model's noise prediction is no finite number, so that it cannot be measured: its training diverged.")


def measure(
    model: Model, reference: Reference, effort: Effort, rewards: Sequence[Reward], on_batch: BatchObserver = lambda _count: None
) -> dict[str, Estimate]:
    """Each reward's figure by its name, of one evaluation; model and random streams are left as they were."""
    with undisturbed(model):
        evaluation = Evaluation(model, reference, effort, on_batch)
        return {reward.name: reward(evaluation) for reward in rewards}
