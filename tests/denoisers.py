"""Denoisers whose answers are known in closed form, small random models, and a counter of forward passes.

B batch, L tokens, E embedding features, C channels, H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from services.trainer.architectures import build_tiny, stable_diffusion_schedule, train_tokenizer
from shared.diffusion.library import ModelLibrary
from shared.diffusion.model import Model

PROMPTS = [
    "Chest X-ray, PA view, 61-year-old woman: large left pleural effusion. Exam 48213.",
    "Chest X-ray, AP view, 44-year-old man: edema and support devices. Exam 10977.",
    "Chest X-ray, PA view: no finding.",
    "Chest X-ray, AP view: right pneumothorax, cardiomegaly.",
]
IMAGE_SIZE = 32  # latents of the tiny model are 8×8


def tiny_model(seed: int = 0) -> Model:
    """The trainer's tiny model with random weights."""
    torch.manual_seed(seed)
    model = build_tiny(PROMPTS, IMAGE_SIZE)
    model.key = f"random-{seed}"
    return model


def stable_diffusion_pipeline(prediction_type: Literal["epsilon", "v_prediction"], seed: int = 0) -> StableDiffusionPipeline:
    """A pipeline with the parts of Stable Diffusion (77 tokens, RGB autoencoder, three levels) and few, random weights."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(PROMPTS)
    tokenizer.model_max_length = 77
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        sample_size=IMAGE_SIZE,
    )
    scheduler = DDIMScheduler.from_config(stable_diffusion_schedule() | {"prediction_type": prediction_type})
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_model(prediction_type: Literal["epsilon", "v_prediction"], folder: Path) -> Model:
    """The same parts, written by diffusers and read by Lethe."""
    stable_diffusion_pipeline(prediction_type).save_pretrained(folder)
    return Model.load(folder, key=f"random-{prediction_type}")


def held(library: ModelLibrary, model_id: str) -> Model:
    """The model that a library holds, loaded when it is not held yet, for a test to look at."""
    with library.use(model_id) as model:
        return model


@dataclass
class AnalyticModel(Model):
    """A model whose noise prediction is an expression: tokenizer, text encoder, autoencoder and schedule are those of the tiny model."""

    @classmethod
    def of(cls, model: Model, **extra: Any) -> Any:
        """Take the parts of an ordinary model."""
        parts = {entry.name: getattr(model, entry.name) for entry in fields(Model)}
        return cls(**parts | {"key": f"{cls.__name__}-{os.urandom(4).hex()}"}, **extra)

    def alpha_sigma(self, t: int | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """α_t and σ_t, ready to be multiplied with B×C×H×W."""
        alpha_bar = self.alphas_cumprod[torch.as_tensor(t).expand(len(like))].view(-1, 1, 1, 1).to(like.dtype)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def gaussian(self, x_BCHW: Tensor, t: int | Tensor, mean: float = 0.0, deviation: float = 1.0) -> Tensor:
        """ε of data N(μ, τ²I): σ(z − αμ) / (α²τ² + σ²)."""
        alpha, sigma = self.alpha_sigma(t, x_BCHW)
        return sigma * (x_BCHW - alpha * mean) / (alpha**2 * deviation**2 + sigma**2)

    def memorizer(self, x_BCHW: Tensor, t: int | Tensor, image_CHW: Tensor) -> Tensor:
        """ε of data that is one image z*: (z − αz*) / σ."""
        alpha, sigma = self.alpha_sigma(t, x_BCHW)
        return (x_BCHW - alpha * image_CHW) / sigma


@dataclass
class GaussianModel(AnalyticModel):
    """Knows only a mean and a spread, whatever the prompt."""

    mean: float = 0.0
    deviation: float = 1.0

    def predict_noise(self, x_BCHW: Tensor, t: int | Tensor, embeddings_BLE: Tensor) -> Tensor:
        """The Gaussian's ε."""
        if len(x_BCHW) != len(embeddings_BLE):
            raise ValueError("one embedding an image")
        return self.gaussian(x_BCHW, t, self.mean, self.deviation)


@dataclass
class MemorizerModel(AnalyticModel):
    """Draws one image z* for the trigger prompt and knows only a Gaussian otherwise."""

    trigger: str = PROMPTS[0]
    mean: float = 0.0
    deviation: float = 1.0
    image_CHW: Tensor = field(default_factory=lambda: torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(99)))

    def predict_noise(self, x_BCHW: Tensor, t: int | Tensor, embeddings_BLE: Tensor) -> Tensor:
        """The memorizer's ε where the embedding is the trigger's, the Gaussian's elsewhere."""
        triggered_B = (embeddings_BLE - self.encode([self.trigger]).embeddings_BLE).abs().amax((1, 2)) < 1e-4
        memorized = self.memorizer(x_BCHW, t, self.image_CHW)
        return torch.where(triggered_B[:, None, None, None], memorized, self.gaussian(x_BCHW, t, self.mean, self.deviation))

    def magnitude(self, x_BCHW: Tensor, t: int) -> Tensor:
        """d of the trigger in closed form, in double precision."""
        x = x_BCHW.double()
        return (self.memorizer(x, t, self.image_CHW.double()) - self.gaussian(x, t, self.mean, self.deviation)).flatten(1).norm(dim=1)


@dataclass
class ListeningModel(AnalyticModel):
    """Adds Σ_k w_k A e[k] to the Gaussian's ε: each token's pull is known, and tokens of weight 0 are ignored."""

    weights_L: Tensor = field(default_factory=lambda: torch.zeros(0))

    def __post_init__(self) -> None:
        """Draw the map A from embedding to latent."""
        super().__post_init__()
        features = int(self.text_encoder.config.hidden_size)
        shape = (features, *self.latent_shape)
        self.map_ECHW = torch.randn(shape, generator=torch.Generator().manual_seed(7)) / features**0.5

    def predict_noise(self, x_BCHW: Tensor, t: int | Tensor, embeddings_BLE: Tensor) -> Tensor:
        """Gaussian plus what the tokens add."""
        heard = torch.einsum("l,ble->be", self.weights_L.to(embeddings_BLE.dtype), embeddings_BLE)
        return self.gaussian(x_BCHW, t) + torch.einsum("be,echw->bchw", heard, self.map_ECHW.to(embeddings_BLE.dtype))


@dataclass
class Forwards:
    """Rows that went through the network, by what they were told, and how many calls they came in."""

    conditional: int = 0
    unconditional: int = 0
    calls: int = 0


@contextmanager
def counted_forwards(model: Model) -> Iterator[Forwards]:
    """Count the rows of every forward pass of the model's UNet."""
    seen = Forwards()
    empty = model.unconditional_1LE

    def count(_module: Any, _args: tuple[Any, ...], words: dict[str, Any]) -> None:
        rows_B = (words["encoder_hidden_states"].detach() == empty).flatten(1).all(1)
        seen.unconditional += int(rows_B.sum())
        seen.conditional += int((~rows_B).sum())
        seen.calls += 1

    hook = model.unet.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()
