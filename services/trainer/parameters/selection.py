"""From what a training job says of parameters to those of its model."""

from __future__ import annotations

from torch import nn

from services.trainer.parameters.attention_modules import attention_modules
from services.trainer.parameters.attention_names import chosen_names, in_order
from services.trainer.parameters.kinds import (
    AnyParameters,
    AttentionParameters,
    BiasNormParameters,
    FullParameters,
    LowRankParameters,
    ScaleFactorParameters,
    SingularValueParameters,
)
from services.trainer.parameters.learning_parameters import LearningParameters
from services.trainer.parameters.low_rank import low_rank_parameters
from services.trainer.parameters.named_parameters import all_parameters, attention_parameters, bias_norm_parameters
from services.trainer.parameters.scale_factors import scale_factor_parameters
from services.trainer.parameters.singular_values import singular_value_parameters
from shared.diffusion.model import Model


def select_parameters(unet: nn.Module, parameters: AnyParameters) -> LearningParameters:
    """Freeze a denoiser, but for what this kind lets learn of the attention modules that take part and of the rest."""
    known = in_order(attention_modules(unet))
    blocks = chosen_names(parameters, known)
    match parameters:
        case FullParameters():
            chosen = all_parameters(unet, blocks)
        case AttentionParameters():
            chosen = attention_parameters(unet, blocks)
        case BiasNormParameters():
            chosen = bias_norm_parameters(unet, blocks)
        case LowRankParameters():
            rank = parameters.rank if parameters.ranks is None else dict(zip(known, parameters.ranks, strict=True))
            chosen = low_rank_parameters(unet, blocks, rank=rank, alpha=parameters.alpha)
        case SingularValueParameters():
            chosen = singular_value_parameters(unet, blocks, parameters.norm_learning_rate)
        case ScaleFactorParameters():
            chosen = scale_factor_parameters(unet, blocks)
    chosen.learning_rate = parameters.learning_rate
    return chosen


class PartOfDenoiser:
    """The ParameterSelection of a kind that says what learns of the denoiser; the text encoder learns beside it, or not."""

    def __init__(self, parameters: AnyParameters, *, text_encoder_learns: bool = False) -> None:
        self.parameters = parameters
        self.text_encoder_learns = text_encoder_learns

    def __call__(self, model: Model) -> list[nn.Module]:
        """Freeze everything else; answers modules that hold what learns."""
        model.vae.requires_grad_(False)
        chosen = select_parameters(model.unet, self.parameters)
        if self.text_encoder_learns:
            return [chosen, model.text_encoder]
        model.text_encoder.requires_grad_(False)
        return [chosen]
