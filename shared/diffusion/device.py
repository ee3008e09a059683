"""What computes: the accelerator if there is one; where one was to be expected and none is found, that is told."""

from __future__ import annotations

import torch
from prometheus_client import Gauge

from shared.telemetry import get_logger

GPU_MISSING = Gauge("lethe_gpu_missing", "1 where torch is built for GPUs and found none, so that processors do the work.")

_LOG = get_logger(__name__)


def available_device() -> str:
    """The accelerator if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def announce_device() -> str:
    """The same, at the start of a service or a training: whoever runs images for GPUs learns that what was given to them has none."""
    device = available_device()
    is_missing = device == "cpu" and torch.version.cuda is not None
    GPU_MISSING.set(is_missing)
    if is_missing:
        _LOG.warning("no GPU found", torch=str(torch.__version__), consequence="processors compute, many times slower")
    else:
        _LOG.info("device found", device=device, torch=str(torch.__version__))
    return device
