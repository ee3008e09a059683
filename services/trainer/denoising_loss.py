"""One training step's loss, with hooks where methods join in.

B batch, N films, C latent channels, H height, W width, L tokens, E embedding features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from services.trainer.training_set import TrainingSet
from shared.diffusion.model import Model


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


def cache_latents(model: Model, films: TrainingSet, batch_size: int = 64) -> Tensor:
    """Every film's scaled latents, N×C×H×W; computed once because the autoencoder does not move any more."""
    images = torch.from_numpy(films.images_NHW)
    return torch.cat([model.to_latents(images[i : i + batch_size].float() / 255) for i in range(0, len(images), batch_size)])


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
