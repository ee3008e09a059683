"""Units are done once each, after their seed's material, and a failure ends the run."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.memorization import schedule
from benchmarks.memorization.methods import BASELINE, SETTINGS
from benchmarks.memorization.regime import QUICK
from benchmarks.memorization.schedule import told, units_of, work

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.memorization.unit import Unit

RESULT = {"seed": 0, "setting": "fine-tuned", "method": "SV-DIFF", "copies": 0.25, "fid": 0.5, "seconds_with_measuring": 41.7}


def test_units_come_seed_by_seed_and_only_where_a_method_can_be_asked_for(tmp_path: Path) -> None:
    units = units_of([BASELINE, "SV-DIFF"], [4, 2], QUICK, tmp_path)
    of_seed = [("from scratch", BASELINE), ("fine-tuned", BASELINE), ("fine-tuned", "SV-DIFF")]
    assert [(unit.seed, unit.setting, unit.method.name) for unit in units] == [(seed, *pair) for seed in (4, 2) for pair in of_seed]
    assert len({unit.path for unit in units}) == len(units)


def test_material_comes_before_its_units_and_each_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []

    def run(unit: Unit) -> dict[str, Any]:
        done.append(unit.path)
        return RESULT

    monkeypatch.setattr(schedule, "one_thread_workers", ThreadPoolExecutor)
    monkeypatch.setattr(schedule, "make_material", lambda _folder, _regime, seed: done.append(seed) or 1.0)
    monkeypatch.setattr(schedule, "run_unit", run)
    units = units_of([BASELINE, "AGC"], [0, 1], QUICK, tmp_path)
    work(units, 2)
    assert sorted(map(str, done)) == sorted([str(unit.path) for unit in units] + ["0", "1"])
    for unit in units:
        assert done.index(unit.seed) < done.index(unit.path)


def test_what_is_on_disk_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = units_of([BASELINE], [0], QUICK, tmp_path)
    for unit in units:
        unit.path.parent.mkdir(parents=True, exist_ok=True)
        unit.path.write_text(json.dumps(RESULT))
    monkeypatch.delattr(schedule, "one_thread_workers")
    work(units, 1)
    assert len(units) == len(SETTINGS)


def test_failure_of_a_unit_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_unit: Unit) -> dict[str, Any]:
        raise RuntimeError("out of paper")

    monkeypatch.setattr(schedule, "one_thread_workers", ThreadPoolExecutor)
    monkeypatch.setattr(schedule, "make_material", lambda *_what: 1.0)
    monkeypatch.setattr(schedule, "run_unit", fail)
    with pytest.raises(RuntimeError, match="out of paper"):
        work(units_of([BASELINE], [0], QUICK, tmp_path), 1)


def test_unit_is_told_in_a_line() -> None:
    assert told(RESULT) == "seed 0, fine-tuned, SV-DIFF: copies 25%, FID 0.500, 42 s"
