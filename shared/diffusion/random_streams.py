"""The positions of random streams: single generators, and those that libraries draw from unasked."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from shared.diffusion.checkpoints import State


class TorchStream:
    """One torch generator of the CPU."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def state(self) -> State:
        """The position."""
        return State({"state": self._generator.get_state()})

    def restore(self, state: State) -> None:
        """Go on from a position."""
        self._generator.set_state(state.tensors["state"])


class NumpyStream:
    """One NumPy generator."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def state(self) -> State:
        """The position; of PCG64 two integers of 128 bits, which JSON holds exactly."""
        return State(facts=dict(self._generator.bit_generator.state))

    def restore(self, state: State) -> None:
        """Go on from a position."""
        self._generator.bit_generator.state = state.facts


class GlobalStreams:
    """The generators of torch (on the CPU and on every CUDA device), NumPy and Python that nobody passes around."""

    def state(self) -> State:
        """All positions."""
        tensors = {"torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            tensors |= {f"cuda.{device}": position for device, position in enumerate(torch.cuda.get_rng_state_all())}
        numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - the stream that libraries draw from
        version, internal, gauss_next = random.getstate()
        facts = {
            "numpy": numpy | {"state": {"key": numpy["state"]["key"].tolist(), "pos": numpy["state"]["pos"]}},
            "python": [version, list(internal), gauss_next],
        }
        return State(tensors, facts)

    def restore(self, state: State) -> None:
        """Go on from all positions; those of devices that are not here are left out."""
        torch.set_rng_state(state.tensors["torch"])
        for device in range(torch.cuda.device_count()):
            if (position := state.tensors.get(f"cuda.{device}")) is not None:
                torch.cuda.set_rng_state(position, device)
        numpy: Any = state.facts["numpy"]
        numpy = numpy | {"state": {"key": np.array(numpy["state"]["key"], dtype=np.uint32), "pos": numpy["state"]["pos"]}}
        np.random.set_state(numpy)  # noqa: NPY002
        version, internal, gauss_next = state.facts["python"]
        random.setstate((version, tuple(internal), gauss_next))
