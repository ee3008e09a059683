"""What a figure was measured with: versions of the libraries, and the machine."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import Final

import psutil

from shared.cli.report import Machine
from shared.cli.supervisor import usable_cores

_LIBRARIES: Final = ("lethe", "torch", "diffusers", "transformers", "numpy", "scipy", "fastapi", "httpx")


def read_versions() -> dict[str, str]:
    """The versions of Python and of the libraries that figures depend on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _LIBRARIES}


def read_machine() -> Machine:
    """The machine in words."""
    return Machine(
        processor=_processor(),
        cores=usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.machine()}",
    )


def _processor() -> str:
    """The processor's name."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
