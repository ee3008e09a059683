"""Registering data sets of growing size: films a second, and the memory that it takes at most."""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.results import FOLDER, keep, tell
from shared.imaging.chexpert import COLUMNS
from shared.imaging.phantom import draw, make_cohort

FILMS: Final = (5_000, 20_000, 50_000, 200_000)
QUICK_FILMS: Final = (500, 2_000)
FILMS_PER_PATIENT: Final = 3  # CheXpert has 2.96 frontal films a patient
SIDE: Final = 64
POOL: Final = 200  # drawn phantoms, of which every film is a mixture of two with noise: drawing each would take longer than reading it


def main() -> None:
    """Write, register, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, nargs="+", default=list(FILMS), help="sizes of the data sets")
    parser.add_argument("--quick", action="store_true", help=f"only {QUICK_FILMS}, to see that it runs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sizes = list(QUICK_FILMS) if options.quick else sorted(options.films)
    pool = _draw_pool(options.seed)
    figures = [_measure(count, pool, options.seed) for count in sizes]
    path = keep("ingest", seed=options.seed, settings={"side": SIDE, "films_per_patient": FILMS_PER_PATIENT}, figures=figures)
    rows = [
        [
            f"{row['films']:,}",
            f"{row['films_per_second']:.0f}",
            f"{row['seconds']['all']:.1f}",
            f"{row['seconds']['reading the table of films']:.1f}",
            f"{row['seconds']['reading films']:.1f}",
            f"{row['seconds']['looking for copies']:.1f}",
            f"{row['seconds']['storing the data set']:.1f}",
            f"{row['peak_mib']:.0f}",
            f"{1000 * row['seconds']['next_page']:.0f}",
        ]
        for row in figures
    ]
    tell(
        f"Registering films of {SIDE} pixels, from JPEG files to committed parts",
        ["films", "films/s", "all s", "rows s", "decoding s", "copies s", "storing s", "peak MiB", "page ms"],
        rows,
        path,
    )


def _measure(count: int, pool: NDArray[np.float32], seed: int) -> dict[str, Any]:
    """Write a source of so many films, register it in a process of its own, and remove both."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.resolve(), prefix="ingest-") as scratch:
        folder, home = Path(scratch) / "source", Path(scratch) / "home"
        started = time.perf_counter()
        write_source(folder, count, pool, seed)
        writing = time.perf_counter() - started
        command = [sys.executable, "-m", "benchmarks.registering", str(home), str(folder), str(count)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured | {"films": count, "films_per_second": count / measured["seconds"]["all"], "seconds_writing_source": writing}


def write_source(folder: Path, count: int, pool: NDArray[np.float32], seed: int) -> None:
    """A folder in CheXpert's layout; no two films are alike."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    with (folder / "train.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for number in range(count):
            patient, study = divmod(number, FILMS_PER_PATIENT)
            path = Path(f"train/patient{patient:06}/study{study + 1}/view1_frontal.jpg")
            (folder / path.parent).mkdir(parents=True)
            (folder / path).write_bytes(_film(pool, rng))
            described = np.random.default_rng([seed, patient])
            row = {"Sex": ("Male", "Female")[int(described.integers(2))], "Age": str(described.integers(18, 91))}
            row |= {name: "1.0" for name in COLUMNS[6:] if rng.random() < 0.15}
            writer.writerow({"Path": f"set/{path}", "Frontal/Lateral": "Frontal", "AP/PA": ("AP", "PA")[int(rng.integers(2))], **row})


def _draw_pool(seed: int) -> NDArray[np.float32]:
    films = [film for film in make_cohort(POOL, seed) if film.view != "lateral"][:POOL]
    return np.stack([draw(film, SIDE) for film in films]).astype(np.float32)


def _film(pool: NDArray[np.float32], rng: np.random.Generator) -> bytes:
    first, second = pool[rng.integers(len(pool), size=2)]
    share = rng.uniform(0.2, 0.8)
    rows, columns = rng.integers(-3, 4, size=2)
    mixture = share * first + (1 - share) * np.roll(second, (rows, columns), (0, 1))
    grain = np.kron(rng.normal(0, 14, (16, 16)), np.ones((4, 4))) + rng.normal(0, 3, mixture.shape)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(mixture + grain, 0, 255).astype(np.uint8)).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
