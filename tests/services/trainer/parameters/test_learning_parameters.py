"""Some of a network's parameters as a module."""

from __future__ import annotations

import torch
from torch import nn

from services.trainer.parameters.learning_parameters import LearningParameters


def test_holds_what_learns_and_nothing_else() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5), nn.Linear(2, 1))
    chosen = LearningParameters(network, [network[2].weight])
    assert chosen.count == 2
    assert [name for name, p in network.named_parameters() if p.requires_grad] == ["2.weight"]
    assert [tuple(tensor.shape) for tensor in chosen.state_dict().values()] == [(1, 2)]
    chosen.load_state_dict({"chosen.0": torch.ones(1, 2)})
    assert network[2].weight.tolist() == [[1.0, 1.0]]


def test_parameters_have_the_rate_of_the_selection_or_their_own() -> None:
    network = nn.Linear(3, 2)
    chosen = LearningParameters(network, network.parameters(), rates={network.bias: 1e-6})
    assert list(chosen.rated_parameters()) == [(network.weight, None), (network.bias, 1e-6)]
    chosen.learning_rate = 1e-3
    assert [rate for _, rate in chosen.rated_parameters()] == [1e-3, 1e-6]


def test_network_is_switched_with_it() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    chosen = LearningParameters(network, network.parameters())
    assert not chosen.eval()._network[0].training
    assert not network[1].training
    chosen.train()
    assert network[1].training
