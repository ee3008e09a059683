"""One text-to-image diffusion model: a diffusers folder that encodes prompts and predicts noise, always as epsilon.

B batch, L tokens, E embedding features, C channels, H height, W width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from shared.diffusion.model_folder import ModelFolderError, check_folder
from shared.errors import InvalidRequestError

PREDICTION_TYPES: Final = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is told: text-encoder output of each prompt, B×L×E, and the token ids it came from, B×L."""

    embeddings_BLE: Tensor
    token_ids_BL: Tensor

    def __len__(self) -> int:
        """The number of prompts."""
        return len(self.embeddings_BLE)

    def repeat(self, times: int) -> Conditioning:
        """Each prompt `times` times in a row: images of one prompt stand together."""
        return Conditioning(self.embeddings_BLE.repeat_interleave(times, 0), self.token_ids_BL.repeat_interleave(times, 0))

    def __getitem__(self, rows: slice) -> Conditioning:
        """Some of the prompts."""
        return Conditioning(self.embeddings_BLE[rows], self.token_ids_BL[rows])


@dataclass
class Model:
    """The parts of a diffusers folder, on one device; `key` names the weights (a digest) for caches and calibrations."""

    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    scheduler_config: dict[str, Any]
    key: str
    device: torch.device

    def __post_init__(self) -> None:
        """Put the parts in place and derive the noise schedule."""
        for part in (self.text_encoder, self.unet, self.vae):
            part.to(self.device).eval()
        if self.prediction_type not in PREDICTION_TYPES:
            raise ModelFolderError(f"prediction type {self.prediction_type!r} is not supported; it must be {' or '.join(PREDICTION_TYPES)}")
        self.alphas_cumprod: Tensor = DDIMScheduler.from_config(self.scheduler_config).alphas_cumprod.to(self.device)
        self._unconditional: Tensor | None = None

    @classmethod
    def load(cls, folder: Path, *, key: str, device: str = "cpu") -> Model:
        """Load a diffusers folder (Stable Diffusion 1.x/2.x layout): safetensors only, allow-listed classes, no code beside it."""
        check_folder(folder)
        silence_libraries()
        local: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "torch_dtype": torch.float32}
        return cls(
            text_encoder=CLIPTextModel.from_pretrained(
                folder / "text_encoder", local_files_only=True, use_safetensors=True, dtype=torch.float32
            ),
            tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
            unet=UNet2DConditionModel.from_pretrained(folder / "unet", **local),
            vae=AutoencoderKL.from_pretrained(folder / "vae", **local),
            scheduler_config=json.loads((folder / "scheduler" / "scheduler_config.json").read_text()),
            key=key,
            device=torch.device(device),
        )

    def save(self, folder: Path) -> None:
        """Write an ordinary diffusers folder that `StableDiffusionPipeline.from_pretrained` loads as it is."""
        for name, part in (("text_encoder", self.text_encoder), ("unet", self.unet), ("vae", self.vae)):
            part.save_pretrained(folder / name, safe_serialization=True)
        self.tokenizer.save_pretrained(folder / "tokenizer")
        DDIMScheduler.from_config(self.scheduler_config).save_pretrained(folder / "scheduler")
        index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False}
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "image_encoder": [None, None]}
        index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
        index |= {
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "scheduler": ["diffusers", "DDIMScheduler"],
        }
        (folder / "model_index.json").write_text(json.dumps(index, indent=2))

    @property
    def prediction_type(self) -> str:
        """What the network was trained to predict: `epsilon` or `v_prediction`."""
        return str(self.scheduler_config.get("prediction_type", "epsilon"))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Latent channels, height and width."""
        side = int(self.unet.config.sample_size)
        return int(self.unet.config.in_channels), side, side

    @property
    def image_size(self) -> int:
        """Pixels along each side of an image."""
        return int(self.latent_shape[1] * 2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def size_bytes(self) -> int:
        """What its parameters and buffers take of the device's memory."""
        parts = (self.text_encoder, self.unet, self.vae)
        return sum(tensor.numel() * tensor.element_size() for part in parts for tensor in (*part.parameters(), *part.buffers()))

    @property
    def token_limit(self) -> int:
        """Tokens in the encoder's window, begin and end marker included."""
        return int(self.text_encoder.config.max_position_embeddings)

    def tokenize(self, prompts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """Token ids B×L, padded to the window; a longer prompt is refused unless it may be cut, which keeps the end marker."""
        padded = self.tokenizer(list(prompts), padding="max_length", max_length=self.token_limit, truncation=truncate)["input_ids"]
        require_fitting([len(ids) for ids in padded], self.token_limit)
        return torch.tensor(padded, device=self.device)

    def count_tokens(self, prompts: Sequence[str]) -> list[int]:
        """How long each prompt is in tokens, begin and end marker included, whatever the window."""
        return [len(ids) for ids in self.tokenizer(list(prompts), truncation=False)["input_ids"]]

    def encode(self, prompts: Sequence[str], *, truncate: bool = False) -> Conditioning:
        """Prompts as conditioning; one that is too long is refused unless it may be cut."""
        token_ids = self.tokenize(prompts, truncate=truncate)
        with torch.no_grad():
            return Conditioning(self.text_encoder(token_ids)[0], token_ids)

    @property
    def unconditional_1LE(self) -> Tensor:
        """The empty prompt's embedding e_u, computed once."""
        if self._unconditional is None:
            self._unconditional = self.encode([""]).embeddings_BLE
        return self._unconditional

    def weights_changed(self) -> None:
        """Forget what was derived from the weights; whoever trains calls this."""
        self._unconditional = None

    def predict(self, x_BCHW: Tensor, t: int | Tensor, embeddings_BLE: Tensor) -> Tensor:
        """What the network answers, in fp32: ε or v, as `prediction_type` says."""
        timesteps_B = torch.as_tensor(t, device=x_BCHW.device).expand(len(x_BCHW))
        return torch.as_tensor(self.unet(x_BCHW, timesteps_B, encoder_hidden_states=embeddings_BLE, return_dict=False)[0].float())

    def predict_noise(self, x_BCHW: Tensor, t: int | Tensor, embeddings_BLE: Tensor) -> Tensor:
        """Noise prediction ε(x_t, t, e) in fp32; v is converted by ε = α_t v + σ_t x_t (Salimans & Ho 2022)."""
        native = self.predict(x_BCHW, t, embeddings_BLE)
        if self.prediction_type == "epsilon":
            return native
        alpha_bar = self.alphas_cumprod[torch.as_tensor(t, device=x_BCHW.device).expand(len(x_BCHW))].view(-1, 1, 1, 1)
        return alpha_bar.sqrt() * native + (1 - alpha_bar).sqrt() * x_BCHW.float()

    @torch.no_grad()
    def to_latents(self, images_BHW: Tensor) -> Tensor:
        """Grey images in [0, 1] as scaled latents z_0 (the posterior's mean)."""
        pixels = (images_BHW.to(self.device) * 2 - 1)[:, None].expand(-1, int(self.vae.config.in_channels), -1, -1)
        return torch.as_tensor(self.vae.encode(pixels).latent_dist.mean * self.vae.config.scaling_factor)

    @torch.no_grad()
    def to_images(self, latents_BCHW: Tensor) -> Tensor:
        """Latents decoded to grey images in [0, 1], B×H×W."""
        pixels = self.vae.decode(latents_BCHW / self.vae.config.scaling_factor, return_dict=False)[0]
        return torch.as_tensor((pixels.float() / 2 + 0.5).clamp(0, 1).mean(1))


def require_fitting(lengths: Sequence[int], limit: int) -> None:
    """Refuse the first prompt that has more tokens than the window; it is named by its place."""
    for index, length in enumerate(lengths):
        if length > limit:
            message = f"prompt {index} has {length} tokens; the text encoder reads {limit}, begin and end marker included"
            raise InvalidRequestError(message, field=f"prompts.{index}")


def silence_libraries() -> None:
    """Keep progress bars and advice of diffusers and transformers out of logs that hold one JSON object a line."""
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
