"""One training step's loss, with hooks where methods join in.

B batch, N films, C latent channels, H height, W width, L tokens, E embedding features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from services.trainer.augmentation import MarkedFilms
from services.trainer.batch_filters import NEAR, AntiGradientFilter, BatchFilter, JudgedBatch, open_batch_filter
from services.trainer.caption_rules import EmbeddingNoise
from services.trainer.caption_transforms import OpenTransform, open_caption_transform
from services.trainer.parameters.kinds import FullParameters
from services.trainer.parameters.selection import PartOfDenoiser
from services.trainer.prompt_embeddings import PromptEmbeddings, TextEncoder
from services.trainer.skip_counts import NOBODY, SkipCounts
from services.trainer.timesteps import TimestepDensity, u_shaped_timesteps, uniform_timesteps
from services.trainer.training_set import TrainingSet
from services.trainer.training_spec import TrainingSpec
from shared.diffusion.checkpoints import Resumable, State
from shared.diffusion.model import Model
from shared.diffusion.optimisation import Optimisation, Schedule
from shared.memorization.magnitude import noise_prediction_magnitude

Objective = Literal["epsilon", "native"]
Precision = Literal["fp32", "bf16"]
EMA_DECAY: Final = 0.995
ENCODED_PIXELS: Final = 64 * 128 * 128  # of one forward of the autoencoder
_WHOLE: Final = slice(None)


class ParameterSelection(Protocol):
    """Which parameters learn."""

    def __call__(self, model: Model) -> list[nn.Module]:
        """Freeze what must not move; answer the modules that hold what may."""
        ...


def all_parameters(model: Model) -> list[nn.Module]:
    """Full training of the denoiser and the text encoder; the autoencoder stays, for latents are cached."""
    model.vae.requires_grad_(False)
    return [model.unet, model.text_encoder]


def denoiser_parameters(model: Model) -> list[nn.Module]:
    """Training of the denoiser alone."""
    model.vae.requires_grad_(False)
    model.text_encoder.requires_grad_(False)
    return [model.unet]


def _selection(spec: TrainingSpec) -> ParameterSelection:
    """What a training job says of the parameters that learn."""
    text_encoder_learns = spec.text_encoder == "train"
    if spec.parameters != FullParameters():
        return PartOfDenoiser(spec.parameters, text_encoder_learns=text_encoder_learns)
    return all_parameters if text_encoder_learns else denoiser_parameters


@dataclass(frozen=True)
class Recipe:
    """How to train; `parameters`, `captions`, `batch_filter` and `timesteps` are where methods join the step."""

    steps: int
    batch_size: int
    learning_rate: float
    prompt_dropout: float
    seed: int
    parameters: ParameterSelection = all_parameters
    captions: tuple[OpenTransform, ...] = ()
    embedding_noise: float = 0.0
    batch_filter: Callable[[Model], BatchFilter] | None = None
    timesteps: TimestepDensity = uniform_timesteps
    text_encoder: TextEncoder = "train"
    schedule: Schedule = "one_cycle"
    warm_up: float = 0.1
    weight_decay: float = 0.01
    ema_decay: float | None = EMA_DECAY
    objective: Objective = "epsilon"
    min_snr_gamma: float | None = None
    noise_offset: float = 0.0
    precision: Precision = "fp32"
    accumulation: int = 1
    gradient_checkpointing: bool = False
    cache_latents: bool = True
    cache_embeddings: bool = True

    @classmethod
    def of(cls, spec: TrainingSpec) -> Self:
        """What a training job is told, as a recipe."""
        return cls(
            steps=spec.steps,
            batch_size=spec.batch_size,
            learning_rate=spec.learning_rate,
            prompt_dropout=spec.prompt_dropout,
            seed=spec.seed,
            parameters=_selection(spec),
            captions=tuple(opens for rule in spec.captions if (opens := open_caption_transform(rule)) is not None),
            embedding_noise=sum(rule.scale for rule in spec.captions if isinstance(rule, EmbeddingNoise)),
            timesteps=u_shaped_timesteps if spec.timesteps == "u_shaped" else uniform_timesteps,
            batch_filter=open_batch_filter(spec.batch_filter) if spec.batch_filter is not None else None,
            text_encoder=spec.text_encoder,
            schedule=spec.schedule,
            warm_up=spec.warm_up,
            weight_decay=spec.weight_decay,
            ema_decay=spec.ema_decay,
            objective=spec.objective,
            min_snr_gamma=spec.min_snr_gamma,
            noise_offset=spec.noise_offset,
            precision=spec.precision,
            accumulation=spec.gradient_accumulation,
            gradient_checkpointing=spec.gradient_checkpointing,
            cache_latents=spec.cache_latents,
            cache_embeddings=spec.cache_embeddings,
        )

    @property
    def optimisation(self) -> Optimisation:
        """The part that the loop follows."""
        return Optimisation(
            steps=self.steps,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            ema_decay=self.ema_decay,
            schedule=self.schedule,
            warm_up=self.warm_up,
            accumulation=self.accumulation,
        )

    def modules(self, model: Model) -> list[nn.Module]:
        """Freeze what must not move, let the denoiser compute activations again if asked; answers the modules that learn."""
        if self.gradient_checkpointing:
            model.unet.enable_gradient_checkpointing()
        return self.parameters(model)


def cache_latents(model: Model, films: TrainingSet, batch_size: int | None = None) -> Tensor:
    """Every film's scaled latents, N×C×H×W; computed once because the autoencoder does not move any more."""
    images = torch.from_numpy(films.images_NHW)
    size = batch_size or latents_at_once(images.shape[-1])
    return torch.cat([model.to_latents(images[i : i + size].float() / 255) for i in range(0, len(images), size)])


def latents_at_once(image_size: int) -> int:
    """How many films are encoded together: 64 small ones, and of large ones so many that memory stays the same."""
    return max(1, min(64, ENCODED_PIXELS // image_size**2))


def min_snr_weights(alpha_bar_B: Tensor, gamma: float, *, of_velocity: bool) -> Tensor:
    """Weights of squared errors that come to min(SNR, γ)‖z_0 − ẑ_0‖², SNR = ᾱ/(1−ᾱ) (Hang et al. 2023, section 3.4).

    min(SNR, γ)/SNR of an error in ε, min(SNR, γ)/(SNR+1) of one in v.
    """
    snr_B = alpha_bar_B / (1 - alpha_bar_B)
    return snr_B.clamp(max=gamma) / (snr_B + 1) if of_velocity else (gamma / snr_B).clamp(max=1)


@dataclass(frozen=True)
class Visit:
    """What is drawn for one batch: films, noise levels, noise, whose prompt is left out, what the prompts became, and noise on them."""

    rows_B: NDArray[np.int64]
    timesteps_B: Tensor
    epsilon_BCHW: Tensor
    dropped_B: Tensor
    prompts: Sequence[str] | None
    embedding_noise_BLE: Tensor | None = None

    def __getitem__(self, share: slice) -> Visit:
        """A part of the batch."""
        prompts = None if self.prompts is None else self.prompts[share]
        noise = None if self.embedding_noise_BLE is None else self.embedding_noise_BLE[share]
        return Visit(self.rows_B[share], self.timesteps_B[share], self.epsilon_BCHW[share], self.dropped_B[share], prompts, noise)


class DenoisingLoss:
    """One training step's loss: the mean of ‖ε − ε(z_t, t, e)‖² (or of v's error) over the samples that count."""

    def __init__(self, model: Model, films: TrainingSet, recipe: Recipe, share: slice = _WHOLE, skips: SkipCounts | None = None) -> None:
        """Cache what never changes. With a `share`, all of a batch's numbers are drawn and its share is computed.

        What the batch filter leaves out is counted in `skips`.
        """
        self.model = model
        self.films = films
        self.recipe = recipe
        self.share = share
        self.of_velocity = recipe.objective == "native" and model.prediction_type == "v_prediction"
        self.order = np.random.default_rng([recipe.seed, 2])
        self.generator = torch.Generator().manual_seed(recipe.seed + 3)
        self.latents_NCHW = cache_latents(model, films) if recipe.cache_latents else None
        self.embeddings = PromptEmbeddings(model, films.prompts, text_encoder=recipe.text_encoder, cached=recipe.cache_embeddings)
        self.deck = films.visits(recipe.batch_size, self.order)
        self.captions = [opens(model, films.prompts) for opens in recipe.captions]
        self.filter = recipe.batch_filter(model) if recipe.batch_filter is not None else None
        self.skips = SkipCounts(films) if skips is None else skips
        marks = isinstance(self.filter, AntiGradientFilter) and self.filter.margin is not None
        self.marked = MarkedFilms(len(films.prompts), recipe.seed) if marks else None

    def __call__(self, _step: int) -> Tensor | None:
        """The loss of the next batch, or None where the batch filter keeps nothing."""
        visit = self.draw()[self.share]
        device = self.model.device
        changed = NOBODY if self.marked is None else self.marked.taken(visit.rows_B)
        z_0, t, epsilon = self._latents(visit.rows_B, changed), visit.timesteps_B.to(device), visit.epsilon_BCHW.to(device)
        alpha_bar_B = self.model.alphas_cumprod[t]
        alpha, sigma = (part.sqrt().view(-1, 1, 1, 1) for part in (alpha_bar_B, 1 - alpha_bar_B))
        z_t = alpha * z_0 + sigma * epsilon
        predict = self.model.predict if self.of_velocity else self.model.predict_noise
        with self._precision():
            predicted = predict(z_t, t, self._embeddings(visit))
            error = predicted - (alpha * epsilon - sigma * z_0 if self.of_velocity else epsilon)
        losses_B = error.square().mean((1, 2, 3))

        @torch.no_grad()
        def magnitudes_B() -> Tensor:
            with self._precision():
                unconditional = predict(z_t, t, self.embeddings.empty(len(t)))
            d_B = noise_prediction_magnitude(predicted, unconditional)
            return alpha.flatten() * d_B if self.of_velocity else d_B  # ε_c − ε_u = α (v_c − v_u)

        kept_B = self._kept(visit, changed, JudgedBatch(losses_B.detach(), t, visit.dropped_B.to(device), magnitudes_B))
        return self._counted(losses_B, alpha_bar_B, kept_B)

    def draw(self) -> Visit:
        """The next batch's random numbers; what a recipe does not ask for is not drawn, so that older seeds keep their streams."""
        rows_B = next(self.deck)
        timesteps_B = self.recipe.timesteps(len(rows_B), len(self.model.alphas_cumprod), self.generator)
        shape = (len(rows_B), *self.model.latent_shape)
        epsilon_BCHW = torch.randn(shape, generator=self.generator)
        prompts: list[str] | None = None
        if self.captions:
            prompts = [self.films.prompts[row] for row in rows_B]
            for transform in self.captions:
                prompts = [transform(prompt, self.order) for prompt in prompts]
        dropped_B = torch.rand(len(rows_B), generator=self.generator) < self.recipe.prompt_dropout
        if self.recipe.noise_offset:  # Guttenberg 2023
            epsilon_BCHW = epsilon_BCHW + self.recipe.noise_offset * torch.randn((*shape[:2], 1, 1), generator=self.generator)
        noise_BLE: Tensor | None = None
        if self.recipe.embedding_noise:
            features = int(self.model.text_encoder.config.hidden_size)
            noise_BLE = torch.randn((len(rows_B), self.model.token_limit, features), generator=self.generator)
            noise_BLE = self.recipe.embedding_noise * noise_BLE * ~dropped_B[:, None, None]  # the empty prompt stays what it is
        return Visit(rows_B, timesteps_B, epsilon_BCHW, dropped_B, prompts, noise_BLE)

    def state(self) -> State:
        """Where the deck and the generators are, and what the batch filter knows."""
        parts = {"deck": self.deck.state(), "noise": State({"generator": self.generator.get_state()})}
        return State.joined(parts | {name: part.state() for name, part in self._filtering().items()})

    def restore(self, state: State) -> None:
        """Go on drawing from there."""
        self.deck.restore(state.part("deck"))
        self.generator.set_state(state.part("noise").tensors["generator"])
        for name, part in self._filtering().items():
            part.restore(state.part(name))

    def _filtering(self) -> dict[str, Resumable]:
        """What a batch filter adds to the state."""
        if self.filter is None:
            return {}
        parts = {"skips": self.skips, "filter": self.filter, "marks": self.marked}
        return {name: part for name, part in parts.items() if isinstance(part, Resumable)}

    def _precision(self) -> torch.autocast:
        """How the networks compute."""
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def _embeddings(self, visit: Visit) -> Tensor:
        """What the denoiser is told, B×L×E."""
        embeddings_BLE = self.embeddings(visit.rows_B, visit.dropped_B, visit.prompts)
        if visit.embedding_noise_BLE is None:
            return embeddings_BLE
        return embeddings_BLE + visit.embedding_noise_BLE.to(embeddings_BLE)

    def _latents(self, rows_B: NDArray[np.int64], changed: NDArray[np.int64]) -> Tensor:
        """z_0 of these films; those at some places are changed first, and so encoded anew where latents are kept."""
        if self.latents_NCHW is None:
            return self._encoded(rows_B, changed)
        z_0 = self.latents_NCHW[rows_B]
        if len(changed):
            z_0[changed] = self._encoded(rows_B[changed], np.arange(len(changed)))
        return z_0

    def _encoded(self, rows_B: NDArray[np.int64], changed: NDArray[np.int64]) -> Tensor:
        """What the autoencoder makes of these films."""
        images_BHW = torch.from_numpy(self.films.images_NHW[rows_B]).float() / 255
        if self.marked is not None and len(changed):
            images_BHW[changed] = self.marked.changed(images_BHW[changed])
        return self.model.to_latents(images_BHW)

    def _kept(self, visit: Visit, changed: NDArray[np.int64], batch: JudgedBatch) -> NDArray[np.bool_] | None:
        """The batch filter's mask, counted by film; None without a filter. What is NEAR is marked."""
        if self.filter is None:
            return None
        verdict_B = self.filter(batch).cpu().numpy()  # all that is read from the device
        kept_B = verdict_B.astype(np.bool_)
        self.skips.add(visit.rows_B, kept_B, visit.rows_B[changed])
        if self.marked is not None:
            self.marked.mark(visit.rows_B[verdict_B == NEAR])
        return kept_B

    def _counted(self, losses_B: Tensor, alpha_bar_B: Tensor, kept_B: NDArray[np.bool_] | None) -> Tensor | None:
        """The weighted mean over what is kept."""
        weighted_B = losses_B
        if self.recipe.min_snr_gamma is not None:
            weighted_B = losses_B * min_snr_weights(alpha_bar_B, self.recipe.min_snr_gamma, of_velocity=self.of_velocity)
        if kept_B is None:
            return weighted_B.mean()
        return weighted_B[np.flatnonzero(kept_B)].mean() if kept_B.any() else None
