"""A build for GPUs that finds none says so; one for processors misses nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from prometheus_client import REGISTRY

from shared.diffusion.device import announce_device, available_device


@pytest.mark.parametrize(
    ("build", "has_gpu", "device", "missing"),
    [(None, False, "cpu", 0), ("13.0", False, "cpu", 1), ("13.0", True, "cuda", 0)],
    ids=["processors' build", "GPUs' build without one", "GPUs' build with one"],
)
def test_missing_gpu_is_told(
    build: str | None, has_gpu: bool, device: str, missing: int, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], str]
) -> None:
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert announce_device() == available_device() == device
    assert REGISTRY.get_sample_value("lethe_gpu_missing") == missing
    assert ("no GPU found" in logged()) == bool(missing)
