"""Parameters that learn as they are, chosen by where they stand or what they are called."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from services.trainer.parameters.attention_modules import attention_modules
from services.trainer.parameters.learning_parameters import LearningParameters


def attention_parameters(unet: nn.Module, blocks: Collection[str] | None = None) -> LearningParameters:
    """Everything inside the attention modules: projections, norms, feed-forward layers."""
    modules = attention_modules(unet, blocks)
    return LearningParameters(unet, [parameter for module in modules.values() for parameter in module.parameters()])


def biases_and_norms(unet: nn.Module) -> list[nn.Parameter]:
    """Parameters with `bias` or `norm` in their names, each once."""
    return [parameter for name, parameter in unet.named_parameters() if "bias" in name or "norm" in name]


def bias_norm_parameters(unet: nn.Module) -> LearningParameters:
    """Biases and norms alone (BitFit, Ben Zaken et al. 2022, with norms)."""
    return LearningParameters(unet, biases_and_norms(unet))
