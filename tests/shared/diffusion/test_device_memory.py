"""The memory of a CUDA device is told at each scrape, and none where there is no device."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from prometheus_client import REGISTRY

from shared.diffusion.device_memory import DEVICE_MEMORY, publish_device_memory

KINDS = ("allocated", "reserved", "free")


@pytest.fixture(autouse=True)
def untold() -> Iterator[None]:
    """Nothing is told before a test, and after it."""
    DEVICE_MEMORY.clear()
    yield
    DEVICE_MEMORY.clear()


def told() -> list[float | None]:
    return [REGISTRY.get_sample_value("lethe_gpu_memory_bytes", {"kind": kind}) for kind in KINDS]


def test_processor_has_no_memory_to_tell_of() -> None:
    publish_device_memory("cpu")
    assert told() == [None, None, None]


def test_memory_is_asked_at_each_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"bytes": 100}
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: held["bytes"])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 2 * held["bytes"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (1000 - held["bytes"], 1000))
    publish_device_memory("cuda")
    assert told() == [100, 200, 900]
    held["bytes"] = 300
    assert told() == [300, 600, 700]


def test_device_that_fails_costs_its_own_figures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_device: str) -> int:
        raise RuntimeError("CUDA error: unspecified launch failure")

    for name in ("memory_allocated", "memory_reserved", "mem_get_info"):
        monkeypatch.setattr(torch.cuda, name, fail)
    publish_device_memory("cuda")
    assert all(value is not None and math.isnan(value) for value in told())


@pytest.mark.gpu
def test_tensor_on_a_device_is_in_its_memory() -> None:
    publish_device_memory("cuda")
    before = told()
    tensor = torch.zeros(2**24, device="cuda")
    after = told()
    assert None not in before
    assert after[0] == (before[0] or 0) + 4 * tensor.numel()
    assert (after[1] or 0) >= (after[0] or 0)
