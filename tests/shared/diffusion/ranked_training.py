"""One rank of a small training, for tests: `torchrun … -m tests.shared.diffusion.ranked_training FOLDER ACCUMULATION`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from shared.diffusion.optimisation import Optimisation, optimise
from shared.diffusion.ranks import Ranks

PLAN: dict[str, Any] = {"steps": 12, "learning_rate": 0.05, "ema_decay": 0.9}


def network_and_loss(ranks: Ranks) -> tuple[nn.Linear, Callable[[int], Tensor]]:
    """A small network and a loss that draws the whole batch and takes this rank's rows."""
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    generator = torch.Generator().manual_seed(1)

    def loss(_step: int) -> Tensor:
        x = torch.randn(8, 3, generator=generator)[ranks.share(8)]
        return (network(x) - x[:, :2] * 2).square().mean()

    return network, loss


def main(folder: Path, accumulation: int) -> None:
    """Train, and keep weights and losses."""
    torch.distributed.init_process_group("gloo")
    ranks = Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
    network, loss = network_and_loss(ranks)
    losses: list[Tensor] = []
    plan = Optimisation(**PLAN, accumulation=accumulation)
    optimise([network], loss, plan, lambda _step, value: losses.append(value), ranks=ranks)
    agreed = torch.tensor(ranks.agreed(40 + ranks.rank))
    save_file({"weight": network.weight.detach(), "losses": torch.stack(losses), "agreed": agreed}, folder / f"{ranks.rank}.safetensors")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
