"""Random streams go on where they were."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from shared.diffusion.checkpoints import State
from shared.diffusion.random_streams import GlobalStreams, NumpyStream, TorchStream


def through_json(state: State) -> State:
    """A state as it comes back from a checkpoint."""
    return State({name: tensor.clone() for name, tensor in state.tensors.items()}, json.loads(json.dumps(state.facts)))


def test_torch_generator_goes_on() -> None:
    generator = torch.Generator().manual_seed(5)
    torch.rand(3, generator=generator)
    kept = through_json(TorchStream(generator).state())
    expected = torch.randn(7, generator=generator)
    other = torch.Generator()
    TorchStream(other).restore(kept)
    assert torch.equal(torch.randn(7, generator=other), expected)


def test_numpy_generator_goes_on_also_between_the_halves_of_a_number() -> None:
    generator = np.random.default_rng([5, 2])
    generator.integers(0, 10, size=3, dtype=np.uint32)  # leaves half of a 64-bit draw waiting
    kept = through_json(NumpyStream(generator).state())
    expected = generator.integers(0, 1000, size=5, dtype=np.uint32).tolist(), generator.permutation(9).tolist()
    other = np.random.default_rng()
    NumpyStream(other).restore(kept)
    assert (other.integers(0, 1000, size=5, dtype=np.uint32).tolist(), other.permutation(9).tolist()) == expected


def drawn() -> tuple[list[float], list[float], list[float]]:
    """Numbers of all three global streams."""
    return torch.rand(3).tolist(), np.random.standard_normal(3).tolist(), [random.gauss(0, 1) for _ in range(3)]  # noqa: NPY002


def test_global_streams_go_on() -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    np.random.standard_normal()  # noqa: NPY002 - leaves the second of a pair waiting
    random.gauss(0, 1)
    kept = through_json(GlobalStreams().state())
    expected = drawn()
    assert drawn() != expected
    GlobalStreams().restore(kept)
    assert drawn() == expected


@pytest.mark.gpu
def test_stream_of_a_cuda_device_goes_on() -> None:
    torch.cuda.manual_seed_all(1)
    kept = through_json(GlobalStreams().state())
    expected = torch.rand(3, device="cuda")
    GlobalStreams().restore(kept)
    assert torch.equal(torch.rand(3, device="cuda"), expected)
