"""Which units there are, and having them all done: by several processes of one thread, each seed's material first."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from typing import Any

from benchmarks.memorization.methods import METHODS, SETTINGS
from benchmarks.memorization.regime import Regime
from benchmarks.memorization.unit import Unit, make_material, run_unit
from benchmarks.workers import one_thread_workers


def units_of(names: Iterable[str], seeds: Sequence[int], regime: Regime, folder: Path) -> list[Unit]:
    """Seed by seed, so that a run that is stopped leaves whole seeds behind."""
    chosen = set(names)
    return [
        Unit(method, setting, seed, regime, folder)
        for seed in seeds
        for setting in SETTINGS
        for method in METHODS
        if method.name in chosen and setting in method.settings
    ]


def work(units: Sequence[Unit], workers: int) -> None:
    """Do what is not done. A unit that fails ends the run; what others finish meanwhile is kept."""
    waiting: dict[int, list[Unit]] = {}
    for unit in units:
        if unit.result is None:
            waiting.setdefault(unit.seed, []).append(unit)
    if not waiting:
        return
    count = sum(map(len, waiting.values()))
    print(f"{count} of {len(units)} units to do, {workers} at a time, one thread each", flush=True)
    with one_thread_workers(workers) as pool:
        _follow(pool, waiting, count)


def _follow(pool: Executor, waiting: dict[int, list[Unit]], count: int) -> None:
    """Hand out material, then units, and say what came of each and what remains."""
    pending: dict[Future[Any], Unit | int] = {}
    for seed, (first, *_) in waiting.items():
        pending[pool.submit(make_material, first.folder, first.regime, seed)] = seed
    done = 0
    began = time.perf_counter()
    while pending:
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            what = pending.pop(future)
            result = future.result()
            if isinstance(what, int):
                print(f"seed {what}: films, gallery and base in {result:.0f} s", flush=True)
                if done == 0:
                    began = time.perf_counter()
                pending |= {pool.submit(run_unit, unit): unit for unit in waiting[what]}
                continue
            done += 1
            remaining = (time.perf_counter() - began) / done * (count - done) / 60
            print(f"[{done}/{count}] {told(result)}; about {remaining:.0f} min left", flush=True)


def told(result: dict[str, Any]) -> str:
    """A unit in a line."""
    return (
        f"seed {result['seed']}, {result['setting']}, {result['method']}: copies {result['copies']:.0%}, FID {result['fid']:.3f}, "
        f"{result['seconds_with_measuring']:.0f} s"
    )
