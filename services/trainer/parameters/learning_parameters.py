"""Some of a denoiser's parameters, for a loop that trains whole modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Self

from torch import Tensor, nn

from services.trainer.parameters.deltas import collect_deltas
from services.trainer.parameters.stand_in import StandIn, merge_stand_ins
from shared.telemetry import get_logger

_LOG = get_logger(__name__)


class LearningParameters(nn.Module):
    """The parameters that learn, as a module of their own: the others are neither moved nor kept in checkpoints."""

    def __init__(
        self, network: nn.Module, parameters: Iterable[nn.Parameter], *, rates: Mapping[nn.Parameter, float] | None = None
    ) -> None:
        """Let these parameters of the network learn and no others; some may have rates of their own."""
        super().__init__()
        network.requires_grad_(False)
        self.chosen = nn.ParameterList([parameter.requires_grad_() for parameter in parameters])
        self.learning_rate: float | None = None  # of those without a rate of their own; None is the training's
        self._rates = rates or {}
        self._network = (network,)  # in a tuple, else all its weights were this module's

    @property
    def count(self) -> int:
        """How many numbers learn."""
        return sum(parameter.numel() for parameter in self.chosen)

    def rated_parameters(self) -> Iterator[tuple[nn.Parameter, float | None]]:
        """Each with the rate that it learns at; None is the training's."""
        return ((parameter, self._rates.get(parameter, self.learning_rate)) for parameter in self.chosen)

    def train(self, mode: bool = True) -> Self:
        """Switch the network that the parameters belong to."""
        self._network[0].train(mode)
        return super().train(mode)

    def merge(self) -> dict[str, Tensor]:
        """Make the network one of plain layers again; answers what plain weights do not show."""
        (network,) = self._network
        if stuck := sum(layer.stuck() for layer in network.modules() if isinstance(layer, StandIn)):
            _LOG.warning("some parameters moved to where they learn no more", stuck=stuck, of=self.count)
        deltas = collect_deltas(network)
        merge_stand_ins(network)
        return deltas


def merge_learnt(modules: Iterable[nn.Module]) -> dict[str, Tensor]:
    """Make the networks that learnt plain ones again; answers all that their weights do not show."""
    deltas: dict[str, Tensor] = {}
    for module in modules:
        if isinstance(module, LearningParameters):
            deltas |= module.merge()
    return deltas
