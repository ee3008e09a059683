"""Training a text-to-image model on a data set's films: its autoencoder, its denoiser.

N films, C latent channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor

from services.trainer.denoising_loss import DenoisingLoss, Recipe, cache_latents
from services.trainer.parameters.learning_parameters import merge_learnt
from services.trainer.skip_counts import SkipCounts
from services.trainer.training_set import TrainingSet
from shared.diffusion.checkpoints import State
from shared.diffusion.model import Model
from shared.diffusion.optimisation import Checkpoints, Optimisation, optimise
from shared.diffusion.random_streams import TorchStream
from shared.diffusion.ranks import ALONE, Ranks

AUTOENCODER_STEPS: Final = 400
AUTOENCODER_RATE: Final = 4e-3
AUTOENCODER_BATCH: Final = 16
KL_WEIGHT: Final = 1e-6  # as for Stable Diffusion's autoencoder: keeps latents bounded, hardly blurs


Progress = Callable[[int, int, str, Tensor], None]
"""Told after each step: step, of how many, what is being trained, the loss. May raise to stop."""


class AutoencoderLoss:
    """The error of decoded films (L1 + L2) and a little KL; each film is shown once an epoch."""

    def __init__(self, model: Model, films: TrainingSet, seed: int, share: slice) -> None:
        """All of a batch's numbers are drawn, and its `share` is computed."""
        self.model = model
        self.images = torch.from_numpy(films.images_NHW)
        self.share = share
        unique = TrainingSet(films.images_NHW, films.prompts, np.ones_like(films.repeats))
        self.deck = unique.visits(AUTOENCODER_BATCH, np.random.default_rng([seed, 1]))
        self.noise = torch.Generator().manual_seed(seed)

    def __call__(self, _step: int) -> Tensor:
        """The loss of the next batch."""
        x = self.images[next(self.deck)].to(self.model.device).float().div(127.5).sub(1)[:, None]
        x, noise = x[self.share], torch.randn((len(x), *self.model.latent_shape), generator=self.noise)[self.share]
        posterior = self.model.vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * noise.to(self.model.device)
        error = self.model.vae.decode(z, return_dict=False)[0] - x
        return torch.as_tensor(error.abs().mean() + error.square().mean() + KL_WEIGHT * posterior.kl().mean())

    def state(self) -> State:
        """Where the deck and the noise are."""
        return State.joined({"deck": self.deck.state(), "noise": TorchStream(self.noise).state()})

    def restore(self, state: State) -> None:
        """Go on from there."""
        self.deck.restore(state.part("deck"))
        TorchStream(self.noise).restore(state.part("noise"))


def train_autoencoder(
    model: Model, films: TrainingSet, seed: int, on_step: Progress, checkpoints: Checkpoints | None = None, ranks: Ranks = ALONE
) -> None:
    """Fit the autoencoder to the films and set its scaling factor so that latents have unit variance."""
    loss = AutoencoderLoss(model, films, seed, ranks.share(AUTOENCODER_BATCH))
    plan = Optimisation(AUTOENCODER_STEPS, AUTOENCODER_RATE, weight_decay=1e-4)
    optimise([model.vae], loss, plan, lambda step, value: on_step(step + 1, plan.steps, "autoencoder", value), checkpoints, ranks)
    model.vae.register_to_config(scaling_factor=1.0)
    spread = cache_latents(model, films).std()
    model.vae.register_to_config(scaling_factor=float(1 / spread))


def train_denoiser(
    model: Model,
    films: TrainingSet,
    recipe: Recipe,
    on_step: Progress,
    checkpoints: Checkpoints | None = None,
    ranks: Ranks = ALONE,
    skips: SkipCounts | None = None,
) -> dict[str, Tensor]:
    """Fit noise prediction on latents (Ho et al. 2020), prompts dropped at random for guidance (Ho & Salimans 2022).

    Answers what was learnt by numbers that the weights do not show.
    """
    loss = DenoisingLoss(model, films, recipe, ranks.share(recipe.batch_size), skips)
    modules = recipe.modules(model)
    plan = recipe.optimisation
    optimise(modules, loss, plan, lambda step, value: on_step(step + 1, plan.steps, "denoiser", value), checkpoints, ranks)
    deltas = merge_learnt(modules)
    model.weights_changed()
    return deltas
