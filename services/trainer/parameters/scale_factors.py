"""Factors of residual branches (DiffFit, Xie et al. 2023): x + γ ⊙ branch(x), with biases and norms learning beside γ."""

from __future__ import annotations

from collections.abc import Collection

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from services.trainer.parameters.attention_modules import attention_modules
from services.trainer.parameters.learning_parameters import LearningParameters
from services.trainer.parameters.named_parameters import biases_and_norms
from services.trainer.parameters.stand_in import StandIn

BRANCH_ENDS = ("attn1.to_out.0", "attn2.to_out.0", "ff.net.2")  # the layers that a transformer block's branches end with


class ScaledLinear(StandIn):
    """A linear layer with a factor for each of its outputs."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.plain = plain
        self.gamma = nn.Parameter(torch.ones(plain.out_features, device=plain.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """γ ⊙ (W x + b)."""
        answer: Tensor = self.plain(x)
        return answer * self.gamma.to(answer.dtype)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The layer of weight diag(γ) W and bias γ ⊙ b."""
        self.plain.weight.mul_(self.gamma[:, None])
        if self.plain.bias is not None:
            self.plain.bias.mul_(self.gamma)
        return self.plain


def scale_factor_parameters(unet: nn.Module, blocks: Collection[str] | None = None) -> LearningParameters:
    """All biases and norms, and the γ of the named attention modules' transformer blocks."""
    learning = biases_and_norms(unet)
    for module in attention_modules(unet, blocks).values():
        for block in module.modules():
            if isinstance(block, BasicTransformerBlock):
                for name in BRANCH_ENDS:
                    scaled = ScaledLinear(block.get_submodule(name))
                    block.set_submodule(name, scaled)
                    learning.append(scaled.gamma)
    return LearningParameters(unet, learning)
