"""A layer that stands in for one of the network's while that learns by fewer numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn


class StandIn(nn.Module, ABC):
    """Answers what the layer would, with numbers of its own that learn."""

    @abstractmethod
    def merged(self) -> nn.Module:
        """The plain layer again, with what was learnt in its weights."""

    def stuck(self) -> int:
        """How many of its numbers have moved to where they have no gradient, and so learn no more."""
        return 0


def merge_stand_ins(network: nn.Module) -> None:
    """Put plain layers back where stand-ins are."""
    for name, module in list(network.named_modules()):
        if isinstance(module, StandIn):
            network.set_submodule(name, module.merged())
