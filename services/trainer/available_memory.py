"""How much memory a process may still take: what the machine has left, or what its control groups leave it, whichever is less."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
import torch

CGROUPS: Final = Path("/sys/fs/cgroup")
OWN_CGROUPS: Final = Path("/proc/self/cgroup")
# Limit, use, and the field of memory.stat that the kernel would give back first: of version 2 and of version 1.
_UNIFIED: Final = ("memory.max", "memory.current", "inactive_file")
_LEGACY: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available_host_bytes() -> int:
    """Of the machine's memory."""
    return min([int(psutil.virtual_memory().available), *_left_by_cgroups()])


def available_device_bytes(device: str) -> int:
    """Of the memory that tensors of this device lie in."""
    return int(torch.cuda.mem_get_info()[0]) if device == "cuda" else available_host_bytes()


def _left_by_cgroups() -> Iterator[int]:
    """What every control group on the way up from this process leaves of its limit."""
    for controllers, path in _memberships():
        mount = CGROUPS / "memory" if controllers == "memory" else CGROUPS
        names = _LEGACY if controllers == "memory" else _UNIFIED
        # In a container the path is the host's, and the mount is already the process's own group.
        for folder in {mount, *(mount / part for part in [path, *path.parents])}:
            left = _left(folder, *names)
            if left is not None:
                yield left


def _memberships() -> Iterator[tuple[str, Path]]:
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in {"", "memory"}:
            yield controllers, Path(path.lstrip("/"))


def _left(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> int | None:
    """Limit less use of one group; None where it has none. Page cache that would be given back is not in use."""
    try:
        limit = (folder / limit_name).read_text().strip()
        usage = int((folder / usage_name).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - usage + int(stat.get(cache_name, 0)))
