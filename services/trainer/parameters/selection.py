"""From what a training job says of parameters to those of its model."""

from __future__ import annotations

from torch import nn

from services.trainer.parameters.kinds import (
    AnyParameters,
    AttentionParameters,
    BiasNormParameters,
    ScaleFactorParameters,
    SingularValueParameters,
)
from services.trainer.parameters.learning_parameters import LearningParameters
from services.trainer.parameters.named_parameters import attention_parameters, bias_norm_parameters
from services.trainer.parameters.scale_factors import scale_factor_parameters
from services.trainer.parameters.singular_values import singular_value_parameters
from shared.diffusion.model import Model


def select_parameters(unet: nn.Module, parameters: AnyParameters) -> LearningParameters:
    """Freeze a denoiser, but for what this kind lets learn; `full` lets learn everything."""
    match parameters:
        case AttentionParameters():
            return attention_parameters(unet, parameters.blocks)
        case BiasNormParameters():
            return bias_norm_parameters(unet)
        case SingularValueParameters():
            return singular_value_parameters(unet, parameters.blocks)
        case ScaleFactorParameters():
            return scale_factor_parameters(unet, parameters.blocks)
        case _:
            return LearningParameters(unet, unet.parameters())


class PartOfDenoiser:
    """The ParameterSelection of a kind that leaves most of the denoiser, and all of the other networks, as they are."""

    def __init__(self, parameters: AnyParameters) -> None:
        self.parameters = parameters

    def __call__(self, model: Model) -> list[nn.Module]:
        """Freeze everything else; answers one module that holds what learns."""
        model.vae.requires_grad_(False)
        model.text_encoder.requires_grad_(False)
        return [select_parameters(model.unet, self.parameters)]
