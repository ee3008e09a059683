"""Some of a denoiser's parameters, for a loop that trains whole modules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from torch import Tensor, nn

from services.trainer.parameters.deltas import collect_deltas
from services.trainer.parameters.stand_in import merge_stand_ins


class LearningParameters(nn.Module):
    """The parameters that learn, as a module of their own: the others are neither moved nor kept in checkpoints."""

    def __init__(self, network: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
        """Let these parameters of the network learn and no others."""
        super().__init__()
        network.requires_grad_(False)
        self.chosen = nn.ParameterList([parameter.requires_grad_() for parameter in parameters])
        self._network = (network,)  # in a tuple, else all its weights were this module's

    @property
    def count(self) -> int:
        """How many numbers learn."""
        return sum(parameter.numel() for parameter in self.chosen)

    def train(self, mode: bool = True) -> Self:
        """Switch the network that the parameters belong to."""
        self._network[0].train(mode)
        return super().train(mode)

    def merge(self) -> dict[str, Tensor]:
        """Make the network one of plain layers again; answers what plain weights do not show."""
        (network,) = self._network
        deltas = collect_deltas(network)
        merge_stand_ins(network)
        return deltas
