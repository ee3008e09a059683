"""What each method of training does to memorization: trains, measures, prints one table and the verdicts, and keeps figures and a picture.

Every unit of work is on disk as soon as it is done, and a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import torch

from benchmarks.memorization.methods import METHODS, QUICK_METHODS
from benchmarks.memorization.picture import draw_picture
from benchmarks.memorization.regime import FULL, QUICK, Regime
from benchmarks.memorization.schedule import units_of, work
from benchmarks.memorization.summary import over_seeds
from benchmarks.memorization.unit import Unit
from benchmarks.memorization.verdicts import verdicts
from benchmarks.results import FOLDER, keep, tell

SEEDS: Final = (0, 1, 2)
WORKERS: Final = 2
WIDTH: Final = 210  # of the one table that goes to a file


def main() -> None:
    """Run what is not done yet, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, a few methods, a few steps: whether it runs, not what comes out")
    parser.add_argument("--seeds", type=int, nargs="+", default=None, help="default: 0 1 2, of --quick 0")
    parser.add_argument("--only", nargs="+", metavar="METHOD", choices=[method.name for method in METHODS], default=None)
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs did")
    parser.add_argument("--workers", type=int, default=WORKERS, help="processes of one thread each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    regime, name = (QUICK, "memorization-quick") if options.quick else (FULL, "memorization")
    seeds = options.seeds or (SEEDS[:1] if options.quick else SEEDS)
    names = options.only or (QUICK_METHODS if options.quick else [method.name for method in METHODS])
    folder = FOLDER / name
    if options.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    units = units_of(names, seeds, regime, folder)
    began = time.perf_counter()
    work(units, options.workers)
    report(name, units, regime, time.perf_counter() - began)


def report(name: str, units: Sequence[Unit], regime: Regime, seconds: float) -> None:
    """Sum up, print, keep."""
    by_row: dict[Any, list[dict[str, Any]]] = {}
    for unit in units:
        by_row.setdefault((unit.setting, unit.method.name), []).append(unit.result or {})
    notes = {unit.method.name: unit.method.note for unit in units}
    rows = [over_seeds(results) | {"note": notes[name]} for (_, name), results in by_row.items()]
    judged = verdicts(by_row)
    seeds = list(dict.fromkeys(unit.seed for unit in units))
    real = {result["seed"]: result["real"] for results in by_row.values() for result in results}
    path = keep(
        name,
        seed=seeds[0],
        settings=asdict(regime) | {"seeds": seeds, "asks": {unit.method.name: unit.method.asks for unit in units}},
        figures={"rows": rows, "verdicts": [asdict(verdict) for verdict in judged], "real_films": real, "seconds_of_this_run": seconds},
    )
    picture = path.with_suffix(".png")
    draw_picture(rows, {unit.method.name: unit.method.asks for unit in units}, picture)
    tell(f"Memorization, means over {len(seeds)} seeds (lowest-highest)", *_table(rows), path, WIDTH)
    tell(
        "What was to be shown",
        ["setting", "claim", "outcome", "figures"],
        [[verdict.setting, verdict.claim, verdict.outcome, verdict.figures] for verdict in judged],
        picture,
        WIDTH,
    )


def _table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The one table, a line a method."""
    columns: dict[str, Any] = {
        "setting": lambda row: row["setting"],
        "method": lambda row: f"{row['method']} ({row['note']})" if row["note"] else row["method"],
        "copies = score [95 %]": lambda row: "{value:.0%} [{low:.0%}, {high:.0%}]".format(**row["copies"]),
        "extracted": lambda row: _shown(row["extracted"], "{:.1f}"),
        "screening AUC": lambda row: _shown(row["score_auc"], "{:.3f}"),
        "canary / control score": lambda row: f"{row['canary_score']['mean']:.2f} / {row['control_score']['mean']:.2f}",
        "similarity": lambda row: _shown(row["similarity"], "{:.2f}"),
        "tile": lambda row: _shown(row["tile_distance"], "{:.3f}"),
        "FID": lambda row: _shown(row["fid"], "{:.3f}"),
        "agreement": lambda row: _shown(row["agreement"], "{:.2f}"),
        "control copies": lambda row: f"{row['control_copies']['mean']:.1%}",
        "skipped": lambda row: f"{row['skipped_share']['mean']:.1%}" if "skipped_share" in row else "–",
        "trainable": lambda row: (
            "{:,.0f} ({:.2%})".format(*(row[k]["mean"] for k in ("trainable_parameters", "trainable_fraction")))
            if "trainable_fraction" in row
            else "–"
        ),
        "step ms": lambda row: f"{row['step_seconds']['mean'] * 1000:.0f}",
        "CPU s": lambda row: f"{row['seconds']['mean']:.0f}",
    }
    lines = [[show(row) for show in columns.values()] for row in rows]
    floor = {"setting": "real films", "method": "held out", "FID": _shown(rows[0]["fid_floor"], "{:.3f}")}
    return list(columns), [*lines, [floor.get(column, "–") for column in columns]]


def _shown(values: dict[str, float], form: str) -> str:
    """A mean with its spread over seeds."""
    mean, low, high = (form.format(values[name]) for name in ("mean", "low", "high"))
    return mean if low == high else f"{mean} ({low}-{high})"


if __name__ == "__main__":
    main()
