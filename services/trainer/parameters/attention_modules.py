"""The attention modules of a denoiser, by name."""

from __future__ import annotations

from collections.abc import Collection

from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn


def attention_modules(unet: nn.Module, blocks: Collection[str] | None = None) -> dict[str, nn.Module]:
    """Those of these names, or all."""
    known = {name: module for name, module in unet.named_modules() if isinstance(module, Transformer2DModel)}
    return known if blocks is None else {name: module for name, module in known.items() if name in blocks}


def parameters_taking_part(unet: nn.Module, blocks: Collection[str] | None) -> dict[str, nn.Parameter]:
    """A network's parameters by name, without those of the attention modules that are not named."""
    out = tuple(f"{name}." for name in attention_modules(unet).keys() - attention_modules(unet, blocks).keys())
    return {name: parameter for name, parameter in unet.named_parameters() if not name.startswith(out)}
