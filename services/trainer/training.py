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
from services.trainer.training_set import TrainingSet
from shared.diffusion.model import Model
from shared.diffusion.optimisation import Optimisation, optimise

AUTOENCODER_STEPS: Final = 400
AUTOENCODER_RATE: Final = 4e-3
AUTOENCODER_BATCH: Final = 16
KL_WEIGHT: Final = 1e-6  # as for Stable Diffusion's autoencoder: keeps latents bounded, hardly blurs


Progress = Callable[[int, int, str, Tensor], None]
"""Told after each step: step, of how many, what is being trained, the loss. May raise to stop."""


def train_autoencoder(model: Model, films: TrainingSet, seed: int, on_step: Progress) -> None:
    """Fit the autoencoder to the films (L1 + L2 + a little KL) and set its scaling factor so that latents have unit variance."""
    generator = np.random.default_rng([seed, 1])
    images = torch.from_numpy(films.images_NHW)
    unique = TrainingSet(films.images_NHW, films.prompts, np.ones_like(films.repeats))
    batches = unique.visits(AUTOENCODER_BATCH, generator)
    noise = torch.Generator().manual_seed(seed)

    def loss(_step: int) -> Tensor:
        x = images[next(batches)].to(model.device).float().div(127.5).sub(1)[:, None]
        posterior = model.vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=noise).to(model.device)
        error = model.vae.decode(z, return_dict=False)[0] - x
        return torch.as_tensor(error.abs().mean() + error.square().mean() + KL_WEIGHT * posterior.kl().mean())

    plan = Optimisation(AUTOENCODER_STEPS, AUTOENCODER_RATE, weight_decay=1e-4)
    optimise([model.vae], loss, plan, lambda step, value: on_step(step + 1, plan.steps, "autoencoder", value))
    model.vae.register_to_config(scaling_factor=1.0)
    spread = cache_latents(model, films).std()
    model.vae.register_to_config(scaling_factor=float(1 / spread))


def train_denoiser(model: Model, films: TrainingSet, recipe: Recipe, on_step: Progress) -> None:
    """Fit noise prediction on cached latents (Ho et al. 2020), prompts dropped at random for guidance (Ho & Salimans 2022)."""
    step_loss = DenoisingLoss(model, films, recipe)
    modules = recipe.modules(model)
    plan = recipe.optimisation
    optimise(modules, step_loss, plan, lambda step, value: on_step(step + 1, plan.steps, "denoiser", value))
    model.weights_changed()
