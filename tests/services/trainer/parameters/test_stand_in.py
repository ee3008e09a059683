"""Layers that stand in for others."""

from __future__ import annotations

from torch import nn

from services.trainer.parameters.stand_in import StandIn, merge_stand_ins


class Doubled(StandIn):
    """Knows which layer it stands for."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.plain = plain

    def merged(self) -> nn.Module:
        return self.plain


def test_plain_layers_come_back_where_they_were() -> None:
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    network = nn.Sequential(Doubled(first), nn.Sequential(nn.ReLU(), Doubled(second)))
    merge_stand_ins(network)
    assert network[0] is first
    assert network[1][1] is second
    assert not any(isinstance(module, StandIn) for module in network.modules())
