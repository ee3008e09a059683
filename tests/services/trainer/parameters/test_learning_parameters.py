"""Some of a network's parameters as a module."""

from __future__ import annotations

import torch
from structlog.testing import capture_logs
from torch import nn

from services.trainer.parameters.learning_parameters import LearningParameters, merge_learnt
from services.trainer.parameters.scale_factors import ScaledLinear
from services.trainer.parameters.singular_values import singular_value_parameters


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


def test_all_that_learnt_is_merged_and_whole_networks_stay_as_they_are() -> None:
    whole, first, second = (
        nn.Linear(2, 2),
        nn.Sequential(ScaledLinear(nn.Linear(2, 3))),
        nn.Sequential(nn.ReLU(), ScaledLinear(nn.Linear(3, 1))),
    )
    learning = [LearningParameters(network, [layer.gamma]) for network, layer in ((first, first[0]), (second, second[1]))]
    deltas = merge_learnt([learning[0], whole, learning[1]])
    assert {name: tensor.tolist() for name, tensor in deltas.items()} == {"0.gamma": [1.0, 1.0, 1.0], "1.gamma": [1.0]}
    assert [type(layer) for layer in (first[0], second[1])] == [nn.Linear, nn.Linear]
    assert merge_learnt([whole]) == {}


def test_singular_values_that_learn_no_more_are_logged_with_their_count() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    learning = singular_value_parameters(network)
    with torch.no_grad():
        for delta in learning.chosen:
            delta[0] = -100.0
    with capture_logs() as lines:
        merge_learnt([learning])
        merge_learnt([singular_value_parameters(nn.Sequential(nn.Linear(2, 2)))])
    assert [(line["log_level"], line["stuck"], line["of"]) for line in lines] == [("warning", 2, 5)]
