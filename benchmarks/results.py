"""How a measurement is summed up, told and kept: median and spread, a table, a JSON file with the machine beside the figures."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

FOLDER: Final = Path("var/bench")
WIDTH: Final = 120  # of a table that goes to a file
PACKAGES: Final = ("lethe", "torch", "diffusers", "transformers", "numpy")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, fastest and count: a shared machine gives long tails, which a mean would follow and the fastest has not."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": float(median), "low": float(low), "high": float(high), "fastest": float(np.min(values)), "n": len(values)}


def shown(values: dict[str, float], scale: float = 1.0, digits: int = 2) -> str:
    """A median with its quartiles as text."""
    return f"{values['median'] * scale:.{digits}f} ({values['low'] * scale:.{digits}f}-{values['high'] * scale:.{digits}f})"


def machine() -> dict[str, Any]:
    """On what the figures were taken."""
    cpu = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        cpu = next((line.partition(":")[2].strip() for line in facts.read_text().splitlines() if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def keep(name: str, *, seed: int, settings: dict[str, Any], figures: Any) -> Path:
    """Write var/bench/{name}.json."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    content = {
        "benchmark": name,
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": seed,
        "settings": settings,
        "machine": machine(),
        "versions": {package: version(package) for package in PACKAGES},
        "figures": figures,
    }
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def tell(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], path: Path, width: int = WIDTH) -> None:
    """Print the table, its words whole where they fit, and where the figures lie; where there is no terminal, as wide as said."""
    table = Table(title=title)
    for column, cells in zip(columns, zip(*rows, strict=True), strict=True):
        table.add_column(column, min_width=max(len(word) for cell in (column, *cells) for word in cell.split()))
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else width)
    console.print(table)
    console.print(f"figures: {path}")
