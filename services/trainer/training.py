"""Training a text-to-image model on a data set's films: one step, with hooks where methods join in.

B batch, N films, C latent channels, H height, W width, L tokens, E embedding features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.diffusion.model import Model
from shared.diffusion.optimisation import Optimisation, optimise
from shared.errors import DatasetError

AUTOENCODER_STEPS: Final = 400
AUTOENCODER_RATE: Final = 4e-3
AUTOENCODER_BATCH: Final = 16
KL_WEIGHT: Final = 1e-6  # as for Stable Diffusion's autoencoder: keeps latents bounded, hardly blurs
EMA_DECAY: Final = 0.995


class ParameterSelection(Protocol):
    """Which parameters learn."""

    def __call__(self, model: Model) -> list[nn.Module]:
        """Freeze what must not move; answer the modules that hold what may."""
        ...


class CaptionTransform(Protocol):
    """What the caption says at this visit."""

    def __call__(self, prompts: list[str], generator: np.random.Generator) -> list[str]:
        """The prompts to train on in place of the stored ones."""
        ...


class BatchFilter(Protocol):
    """Which samples of a batch count."""

    def __call__(self, losses_B: Tensor, timesteps_B: Tensor) -> Tensor:
        """A boolean keep mask, B."""
        ...


class TimestepDensity(Protocol):
    """Which timesteps are drawn."""

    def __call__(self, count: int, total: int, generator: torch.Generator) -> Tensor:
        """`count` integers in [0, total)."""
        ...


def all_parameters(model: Model) -> list[nn.Module]:
    """Full training of the denoiser and the text encoder; the autoencoder stays, for latents are cached."""
    model.vae.requires_grad_(False)
    return [model.unet, model.text_encoder]


def uniform_timesteps(count: int, total: int, generator: torch.Generator) -> Tensor:
    """t ~ U{0, …, total−1} (Ho et al. 2020, algorithm 1)."""
    return torch.randint(0, total, (count,), generator=generator)


@dataclass(frozen=True)
class Recipe:
    """How to train; the last four fields are where methods join the step."""

    steps: int
    batch_size: int
    learning_rate: float
    prompt_dropout: float
    seed: int
    parameters: ParameterSelection = all_parameters
    captions: tuple[CaptionTransform, ...] = ()
    batch_filter: BatchFilter | None = None
    timesteps: TimestepDensity = uniform_timesteps


@dataclass(frozen=True)
class TrainingSet:
    """What is learnt from: grey films N×H×W in [0, 255], a prompt each, and how often each is shown in an epoch."""

    images_NHW: NDArray[np.uint8]
    prompts: list[str]
    repeats: NDArray[np.int64]

    def visits(self, batch_size: int, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Endless batches of film indices; every epoch shuffles all repeats anew, and batches run across epochs."""
        deck = np.repeat(np.arange(len(self.prompts)), self.repeats)
        if not len(deck):
            raise DatasetError("no film is to be shown: the training split is empty, or every film's repeats are 0")
        waiting = np.empty(0, dtype=np.int64)
        while True:
            while len(waiting) < batch_size:
                waiting = np.concatenate([waiting, generator.permutation(deck)])
            yield waiting[:batch_size]
            waiting = waiting[batch_size:]


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


def cache_latents(model: Model, films: TrainingSet, batch_size: int = 64) -> Tensor:
    """Every film's scaled latents, N×C×H×W; computed once because the autoencoder does not move any more."""
    images = torch.from_numpy(films.images_NHW)
    return torch.cat([model.to_latents(images[i : i + batch_size].float() / 255) for i in range(0, len(images), batch_size)])


def train_denoiser(model: Model, films: TrainingSet, recipe: Recipe, on_step: Progress) -> None:
    """Fit noise prediction on cached latents (Ho et al. 2020), prompts dropped at random for guidance (Ho & Salimans 2022)."""
    step_loss = DenoisingLoss(model, films, recipe)
    modules = recipe.parameters(model)
    plan = Optimisation(recipe.steps, recipe.learning_rate, ema_decay=EMA_DECAY)
    optimise(modules, step_loss, plan, lambda step, value: on_step(step + 1, plan.steps, "denoiser", value))
    model.weights_changed()


class DenoisingLoss:
    """One training step's loss: the mean of ‖ε − ε(z_t, t, e)‖² over the samples that count."""

    def __init__(self, model: Model, films: TrainingSet, recipe: Recipe) -> None:
        """Cache what never changes: latents, and the token ids of the stored prompts."""
        self.model = model
        self.films = films
        self.recipe = recipe
        self.order = np.random.default_rng([recipe.seed, 2])
        self.generator = torch.Generator().manual_seed(recipe.seed + 3)
        self.latents_NCHW = cache_latents(model, films)
        self.tokens_NL = model.tokenize(films.prompts)
        self.empty_1L = model.tokenize([""])
        self.batches = films.visits(recipe.batch_size, self.order)

    def __call__(self, _step: int) -> Tensor | None:
        """The loss of the next batch, or None where the batch filter keeps nothing."""
        rows = next(self.batches)
        z_0 = self.latents_NCHW[rows]
        t = self.recipe.timesteps(len(rows), len(self.model.alphas_cumprod), self.generator).to(z_0.device)
        epsilon = torch.randn(z_0.shape, generator=self.generator).to(z_0.device)
        alpha_bar = self.model.alphas_cumprod[t].view(-1, 1, 1, 1)
        z_t = alpha_bar.sqrt() * z_0 + (1 - alpha_bar).sqrt() * epsilon
        embeddings = self.model.text_encoder(self._captions(rows))[0]
        losses_B = (self.model.predict_noise(z_t, t, embeddings) - epsilon).square().mean((1, 2, 3))
        if self.recipe.batch_filter is None:
            return losses_B.mean()
        kept = losses_B[self.recipe.batch_filter(losses_B.detach(), t)]
        return kept.mean() if len(kept) else None

    def _captions(self, rows: NDArray[np.int64]) -> Tensor:
        """Token ids of this visit: transformed where the recipe says so, the empty prompt where dropped."""
        tokens = self.tokens_NL[rows]
        if self.recipe.captions:
            prompts = [self.films.prompts[row] for row in rows]
            for transform in self.recipe.captions:
                prompts = transform(prompts, self.order)
            tokens = self.model.tokenize(prompts)
        dropped = torch.rand(len(rows), generator=self.generator) < self.recipe.prompt_dropout
        return torch.where(dropped[:, None].to(tokens.device), self.empty_1L, tokens)
