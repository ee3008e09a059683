"""What the memory of a CUDA device holds, asked at each scrape."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from prometheus_client import Gauge

DEVICE_MEMORY = Gauge(
    "lethe_gpu_memory_bytes",
    "Memory of the CUDA device: allocated to this process' tensors, reserved for them by torch, and free for all processes.",
    ["kind"],
)


def publish_device_memory(device: str) -> None:
    """Tell of a device's memory from now on; a processor has none of its own to tell of."""
    if not device.startswith("cuda"):
        return
    readings: dict[str, Callable[[], int]] = {
        "allocated": partial(torch.cuda.memory_allocated, device),
        "reserved": partial(torch.cuda.memory_reserved, device),
        "free": lambda: torch.cuda.mem_get_info(device)[0],
    }
    for kind, read in readings.items():
        DEVICE_MEMORY.labels(kind=kind).set_function(partial(_bytes, read))


def _bytes(read: Callable[[], int]) -> float:
    """What a reading says; a device that fails must not take all other metrics with it."""
    try:
        return float(read())
    except RuntimeError:
        return math.nan
