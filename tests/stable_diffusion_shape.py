"""The denoiser of Stable Diffusion 1.5 in shape alone: no weights, no memory."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel

SD15_PARAMETERS = 859_520_964


def sd15_unet() -> UNet2DConditionModel:
    """On the meta device; diffusers' defaults are this network's but for the width of the prompt."""
    with torch.device("meta"):
        return UNet2DConditionModel(cross_attention_dim=768)
