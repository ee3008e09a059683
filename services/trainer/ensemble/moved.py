"""What a shard's loss keeps after films have come and gone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.diffusion.checkpoints import State

COUNTED = "skips/"  # counted in each round anew
BY_FILM = "marks/marks"


def move_deck(loss_state: State, old_records: NDArray[np.int64], new_records: NDArray[np.int64]) -> State:
    """The kept state of a loss, for the films that its shard now has: numbers of films are of the new set, and counts begin at 0.

    Of the present epoch what has left is not dealt any more, and what has come is from the next one on. Marks stay with their films.
    """
    places = {int(record): place for place, record in enumerate(new_records)}
    new_of_old = torch.tensor([places.get(int(record), -1) for record in old_records], dtype=torch.int64)
    tensors: dict[str, Tensor] = {}
    for name, tensor in loss_state.tensors.items():
        if name == "deck/waiting":
            waiting = new_of_old[tensor]
            tensors[name] = waiting[waiting >= 0]
        elif name == BY_FILM:
            stayed = new_of_old >= 0
            tensors[name] = torch.zeros(len(new_records), dtype=tensor.dtype).index_copy_(0, new_of_old[stayed], tensor[stayed])
        elif name.startswith(COUNTED):
            tensors[name] = torch.zeros(len(new_records), dtype=tensor.dtype)
        else:
            tensors[name] = tensor
    return State(tensors, loss_state.facts)
