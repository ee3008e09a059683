"""Products of low rank beside attention's projections (LoRA, Hu et al. 2022): W + (α/r) BA, of which A and B learn; peft's layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import torch
from peft import LoraConfig
from peft.tuners import lora
from torch import Tensor, nn

from services.trainer.parameters.attention_modules import attention_modules
from services.trainer.parameters.kinds import RANK
from services.trainer.parameters.learning_parameters import LearningParameters
from services.trainer.parameters.stand_in import StandIn

PROJECTIONS: Final = ("to_q", "to_k", "to_v", "to_out.0")  # of a transformer block's attentions
_ADAPTER: Final = "default"


class _Adapted(lora.Linear):  # type: ignore[misc] # peft's types are not followed
    """Peft's layer with A and B where they were made: moving is what the fake tensors of the preflight cannot do."""

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """They were made where the plain layer lies."""


class LowRankLinear(StandIn):
    """A linear layer with an adapter, whose A is Gaussian and whose B is 0 at first."""

    def __init__(self, plain: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        with plain.weight.device:
            adapter = _Adapted(plain, _ADAPTER, LoraConfig(init_lora_weights="gaussian"), r=rank, lora_alpha=alpha)
        self.plain = plain
        self.lora_A, self.lora_B = adapter.lora_A[_ADAPTER], adapter.lora_B[_ADAPTER]
        self.adapter = (adapter,)  # in a tuple: its parts are this module's, under names that diffusers knows

    def forward(self, x: Tensor) -> Tensor:
        """W x + b + (α/r) B A x."""
        answer: Tensor = self.adapter[0](x)
        return answer

    def merged(self) -> nn.Module:
        """The layer of weight W + (α/r) BA."""
        self.adapter[0].merge()
        return self.plain


def low_rank_parameters(
    unet: nn.Module, blocks: Collection[str] | None = None, *, rank: int | Mapping[str, int] = RANK, alpha: float | None = None
) -> LearningParameters:
    """The A and B, pair by pair, of the projections of the named attention modules, of one rank or of each module's own."""
    learning: list[nn.Parameter] = []
    for block, module in attention_modules(unet, blocks).items():
        own = rank if isinstance(rank, int) else rank[block]
        for name, layer in list(module.named_modules()):
            if isinstance(layer, nn.Linear) and name.endswith(PROJECTIONS):
                adapted = LowRankLinear(layer, own, own if alpha is None else alpha)
                module.set_submodule(name, adapted)
                learning += [adapted.lora_A.weight, adapted.lora_B.weight]
    return LearningParameters(unet, learning)
