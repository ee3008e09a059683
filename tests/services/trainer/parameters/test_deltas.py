"""What is kept of a learning denoiser beside its plain weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import nn

from services.trainer.parameters.deltas import DELTAS_NAME, collect_deltas, write_deltas
from services.trainer.parameters.learning_parameters import LearningParameters
from services.trainer.parameters.scale_factors import ScaledLinear

if TYPE_CHECKING:
    from pathlib import Path


def test_copies_of_what_learns_under_the_names_of_plain_layers() -> None:
    scaled = ScaledLinear(nn.Linear(2, 3))
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(scaled))
    chosen = LearningParameters(network, [network[0].bias, scaled.gamma, scaled.plain.bias])
    bias = scaled.plain.bias.detach().clone()
    with torch.no_grad():
        scaled.gamma.fill_(2.0)
    deltas = chosen.merge()
    assert set(deltas) == {"0.bias", "1.0.gamma", "1.0.bias"}
    assert deltas["1.0.gamma"].tolist() == [2.0, 2.0, 2.0]
    assert torch.equal(deltas["1.0.bias"], bias)  # before γ went into it
    assert torch.equal(network[1][0].bias, 2 * bias)


def test_network_whose_own_weights_learn_has_none(tmp_path: Path) -> None:
    assert collect_deltas(nn.Linear(2, 2)) == {}
    write_deltas(tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_written_ones_are_read_again(tmp_path: Path) -> None:
    write_deltas(tmp_path, {"conv_in.delta": torch.tensor([0.5, -1.0])})
    assert load_file(tmp_path / DELTAS_NAME)["conv_in.delta"].tolist() == [0.5, -1.0]
