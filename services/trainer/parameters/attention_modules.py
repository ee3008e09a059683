"""The attention modules of a denoiser, by name."""

from __future__ import annotations

from collections.abc import Collection

from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from shared.errors import InvalidRequestError


def attention_modules(unet: nn.Module, blocks: Collection[str] | None) -> dict[str, nn.Module]:
    """Those of these names, or all; a name that the network does not have is refused with those that it has."""
    known = {name: module for name, module in unet.named_modules() if isinstance(module, Transformer2DModel)}
    if blocks is None:
        return known
    for name in blocks:
        if name not in known:
            raise InvalidRequestError(f"The base has no attention module {name}; it has {', '.join(known)}.", field="parameters.blocks")
    return {name: module for name, module in known.items() if name in blocks}
