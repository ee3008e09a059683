"""Parameters that learn as they are, chosen by where they stand or what they are called."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from services.trainer.parameters.attention_modules import attention_modules, parameters_taking_part
from services.trainer.parameters.learning_parameters import LearningParameters


def attention_parameters(unet: nn.Module, blocks: Collection[str] | None = None) -> LearningParameters:
    """Everything inside the attention modules: projections, norms, feed-forward layers."""
    modules = attention_modules(unet, blocks)
    for module in modules.values():
        for norm in module.modules():
            if isinstance(norm, nn.GroupNorm):
                norm.register_forward_pre_hook(_in_plain_order)
    return LearningParameters(unet, [parameter for module in modules.values() for parameter in module.parameters()])


def all_parameters(unet: nn.Module, blocks: Collection[str] | None = None) -> LearningParameters:
    """Everything, but for the attention modules that are not named."""
    return LearningParameters(unet, parameters_taking_part(unet, blocks).values())


def biases_and_norms(unet: nn.Module, blocks: Collection[str] | None = None) -> list[nn.Parameter]:
    """Parameters with `bias` or `norm` in their names, each once; none of the attention modules that are not named."""
    return [parameter for name, parameter in parameters_taking_part(unet, blocks).items() if "bias" in name or "norm" in name]


def bias_norm_parameters(unet: nn.Module, blocks: Collection[str] | None = None) -> LearningParameters:
    """Biases and norms alone (BitFit, Ben Zaken et al. 2022, with norms)."""
    return LearningParameters(unet, biases_and_norms(unet, blocks))


def _in_plain_order(_norm: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Torch's group norm on a CPU crashes in its backward pass when an input that needs no gradient has its channels last."""
    return (inputs[0].contiguous(),)
