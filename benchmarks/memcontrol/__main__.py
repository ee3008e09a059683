"""A search of the parameters that learn beside fixed choices and other searches: trains, measures, prints tables and the verdicts.

Every training is on disk as soon as it is done, and a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.memcontrol.contenders import CONTENDERS, QUICK_CONTENDERS, Contender
from benchmarks.memcontrol.picture import draw_picture
from benchmarks.memcontrol.regime import FULL, QUICK, Regime
from benchmarks.memcontrol.schedule import tasks_of, work
from benchmarks.memcontrol.site import SEARCHED, TRANSFERRED, Site, material_of, reference_of
from benchmarks.memcontrol.summary import Seed, over_seeds, transfer_rows
from benchmarks.memcontrol.verdicts import verdicts
from benchmarks.results import FOLDER, keep, tell

SEEDS: Final = (0, 1, 2)
WORKERS: Final = 2
WIDTH: Final = 210  # of a table that goes to a file


def main() -> None:
    """Run what is not done yet, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, a few contenders, a few steps: whether it runs, not what comes out")
    parser.add_argument("--seeds", type=int, nargs="+", default=None, help="default: 0 1 2, of --quick 0")
    parser.add_argument("--only", nargs="+", metavar="CONTENDER", choices=[contender.name for contender in CONTENDERS], default=None)
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs did")
    parser.add_argument("--workers", type=int, default=WORKERS, help="processes of one thread each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    regime, name = (QUICK, "memcontrol-quick") if options.quick else (FULL, "memcontrol")
    seeds = options.seeds or (SEEDS[:1] if options.quick else SEEDS)
    names = options.only or (QUICK_CONTENDERS if options.quick else [contender.name for contender in CONTENDERS])
    contenders = [contender for contender in CONTENDERS if contender.name in names]
    folder = FOLDER / name
    if options.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    work(tasks_of(contenders, seeds, regime, folder), options.workers)
    report(name, contenders, seeds, regime, folder, time.perf_counter() - began)


def report(name: str, contenders: Sequence[Contender], seeds: Sequence[int], regime: Regime, folder: Path, seconds: float) -> None:
    """Sum up, print, keep."""
    sites = [[Site(anatomy, seed, regime, folder) for anatomy in (SEARCHED, TRANSFERRED)] for seed in seeds]
    found = [Seed.read(here, there, contenders) for here, there in sites]
    rows = {contender.name: over_seeds([seed.row(contender.name) for seed in found]) for contender in contenders}
    there, judged = transfer_rows(found), verdicts(found)
    floors = {site.anatomy: [_floor(pair[place]) for pair in sites] for place, site in enumerate(sites[0])}
    path = keep(
        name,
        seed=seeds[0],
        settings=asdict(regime) | {"seeds": list(seeds), "budget": regime.budget},
        figures={
            "rows": rows,
            "transfer": there,
            "verdicts": [asdict(verdict) for verdict in judged],
            "curves": {seed.seed: {one.name: seed.curve(one.name) for one in contenders} for seed in found},
            "fid_of_real_films": floors,
            "seconds_of_this_run": seconds,
        },
    )
    picture = path.with_suffix(".png")
    draw_picture(found, picture)
    tell(
        f"Searches and fixed choices, {regime.budget} steps each; means over {len(seeds)} seeds (lowest-highest)",
        *_table(rows),
        path,
        WIDTH,
    )
    tell("Chosen points at another site, measured by prompts and noises that nothing was chosen by", *_transfer_table(there), path, WIDTH)
    tell("What was to be shown", ["claim", "outcome", "figures"], [[v.claim, v.outcome, v.figures] for v in judged], picture, WIDTH)


def _floor(site: Site) -> float:
    """The FID of as many real films as images are drawn."""
    material_of(site)
    return reference_of(site).floors["fid"]


def _table(rows: dict[str, dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    columns: dict[str, tuple[str, str]] = {
        "hypervolume": ("hypervolume", "{:.3f}"),
        "steps": ("steps", "{:,.0f}"),
        "trainings": ("trainings", "{:.0f}"),
        "ended early": ("ended_early", "{:.0f}"),
        "copies near best FID": ("copies_near_best_fid", "{:.0%}"),
        "chosen: memorization": ("chosen_memorization", "{:.2f}"),
        "FID": ("chosen_fid", "{:.3f}"),
        "copies": ("chosen_copy_rate", "{:.0%}"),
        "again: memorization": ("judged_memorization", "{:.2f}"),
        "FID again": ("judged_fid", "{:.3f}"),
        "copies again": ("judged_copy_rate", "{:.0%}"),
        "trainable": ("trainable_fraction", "{:.2%}"),
        "CPU s": ("seconds", "{:.0f}"),
    }
    lines = [[name, *(_shown(row[key], form) for key, form in columns.values())] for name, row in rows.items()]
    return ["contender", *columns], lines


def _transfer_table(rows: dict[str, dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    columns = {"memorization": "{:.2f}", "fid": "{:.3f}", "copy_rate": "{:.0%}", "prompt_agreement": "{:.2f}"}
    return ["chosen by", *columns], [[name, *(_shown(row[key], form) for key, form in columns.items())] for name, row in rows.items()]


def _shown(values: dict[str, float] | None, form: str) -> str:
    """A mean with its spread over seeds, and of how many where not of all."""
    if values is None:
        return "–"
    mean, low, high = (form.format(values[name]) for name in ("mean", "low", "high"))
    return mean if low == high else f"{mean} ({low}-{high})"


if __name__ == "__main__":
    main()
