"""Registers one data set in a process of its own and prints what that took: `python -m benchmarks.registering HOME FOLDER FILMS`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from services.trainer.dataset_spec import CheXpertSource, DatasetSpec, PromptRecipe
from services.trainer.records import Records
from services.trainer.registration import register
from shared.catalog import Catalog, new_id
from shared.settings import Settings
from shared.storage import DirectoryStore

IMAGE_SIZE: Final = 64


def main() -> None:
    """Register, page through the ends, print JSON."""
    home, folder, films = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    seconds: dict[str, float] = {}
    before = _peak_mib()
    catalog = Catalog(DirectoryStore(home / "store"), home / "cache")
    spec = DatasetSpec(
        name="ingest",
        source=CheXpertSource(format="chexpert", uri=f"file://{folder}"),
        image_size=IMAGE_SIZE,
        prompt=PromptRecipe(template="demographics"),
    )
    phases = _Phases()
    with _timed(seconds, "all"):
        settings = Settings(home=home, import_roots=str(folder.parent))
        manifest = register(spec, dataset_id=new_id("dataset"), catalog=catalog, settings=settings, report=phases.note)
    peak = _peak_mib()
    if sum(manifest.counts.values()) + manifest.left_out != films:
        raise SystemExit(f"{films} films were written, {manifest.counts} registered")
    records = Records(catalog)
    with _timed(seconds, "last_page"):
        records.page(manifest, split=None, after=films - 51, size=50)
    with _timed(seconds, "next_page"):
        records.page(manifest, split=None, after=films - 101, size=50)
    with _timed(seconds, "last_picture"):
        records.film(manifest, films - 1)
    print(json.dumps({"seconds": seconds | phases.seconds(), "peak_mib": peak, "peak_mib_before": before, "parts": len(manifest.parts)}))


class _Phases:
    """How long each phase took, by what was reported."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}

    def note(self, _step: int, _total: int, message: str, /, **_values: float) -> None:
        """Take note of the first report of a phase."""
        self._began.setdefault(message, time.perf_counter())

    def seconds(self) -> dict[str, float]:
        """From the first report of each phase to that of the next, or to now."""
        names, starts = list(self._began), [*self._began.values(), time.perf_counter()]
        return {name: end - start for name, start, end in zip(names, starts[:-1], starts[1:], strict=True)}


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started


def _peak_mib() -> float:
    """Most memory that was resident since this program began; getrusage would count what its parent had."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


if __name__ == "__main__":
    main()
