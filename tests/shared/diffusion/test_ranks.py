"""Ranks: equal shares of a batch, one mean; two real processes train as one does."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from shared.diffusion.optimisation import Optimisation, optimise
from shared.diffusion.ranks import ALONE, Ranks
from shared.errors import InvalidRequestError
from tests.fixtures.processes import ROOT
from tests.shared.diffusion.ranked_training import PLAN, network_and_loss

if TYPE_CHECKING:
    from pathlib import Path


def test_shares_are_equal_parts_in_order() -> None:
    batch = torch.arange(6)
    assert [batch[Ranks(rank, 3).share(6)].tolist() for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert batch[ALONE.share(6)].tolist() == batch.tolist()
    assert [Ranks(rank, 2).leads for rank in range(2)] == [True, False]


def test_batch_that_cannot_be_dealt_out_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="batch of 5 cannot be dealt out to 2 ranks") as caught:
        Ranks(0, 2).share(5)
    assert caught.value.field == "data_parallel.ranks"


def test_alone_nothing_is_exchanged() -> None:
    value = torch.tensor(3.0)
    assert ALONE.mean(value) is value
    assert ALONE.agreed(7) == 7
    network = torch.nn.Linear(1, 1)
    assert ALONE.shared(network) is network


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_ranks_learn_what_one_process_learns(tmp_path: Path, accumulation: int) -> None:
    network, loss = network_and_loss(ALONE)
    losses: list[float] = []
    optimise([network], loss, Optimisation(**PLAN, accumulation=accumulation), lambda _step, value: losses.append(float(value)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", "--standalone", "--local-addr=127.0.0.1"]
    arguments = ["-m", "tests.shared.diffusion.ranked_training", str(tmp_path), str(accumulation)]
    done = subprocess.run([*torchrun, *arguments], cwd=ROOT, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    assert torch.equal(first["weight"], second["weight"])
    assert first["losses"].tolist() == second["losses"].tolist()
    assert first["losses"].tolist() == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(first["weight"], network.weight.detach(), rtol=1e-4, atol=1e-5)
    assert first["agreed"].item() == second["agreed"].item() == 40
