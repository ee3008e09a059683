"""The processes that train one model together, each on its rows of every batch (data parallel)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from shared.errors import InvalidRequestError


@dataclass(frozen=True)
class Ranks:
    """This process among `count` of them; every rank draws the whole batch's random numbers and then takes its own rows."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that speaks to store and record."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """This rank's rows of a batch; one that cannot be dealt out evenly is refused, for its mean is not the mean of its shares'."""
        if batch_size % self.count:
            raise InvalidRequestError(
                f"A batch of {batch_size} cannot be dealt out to {self.count} ranks evenly; make it a multiple of them.",
                field="data_parallel.ranks",
            )
        size = batch_size // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of all ranks' values."""
        if self.count == 1:
            return value
        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return total / self.count

    def agreed(self, number: int) -> int:
        """The leader's number, on every rank."""
        if self.count == 1:
            return number
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        told = torch.tensor([number], device=device)
        torch.distributed.broadcast(told, src=0)
        return int(told)

    def shared(self, module: nn.Module) -> nn.Module:
        """A module whose gradients are the mean of all ranks' after each backward pass."""
        # Buffers are sent once, at the beginning: no buffer of a diffusion model changes while it learns.
        return module if self.count == 1 else DistributedDataParallel(module, forward_sync_buffers=False)


ALONE: Final = Ranks()
