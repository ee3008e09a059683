"""The load benchmark on real services: it runs, keeps what it saw, and serves one at a time where it says so."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from benchmarks import load, results

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.server
@pytest.mark.slow
def test_quick_run_prints_and_keeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        mock.patch.object(results, "FOLDER", tmp_path),
        mock.patch.object(load, "SEEDS_PER_PROMPT", (1,)),
        mock.patch.object(sys, "argv", ["load", "--quick", "--threads", "1"]),
    ):
        load.main()
    figures = json.loads((tmp_path / "load-quick.json").read_text())["figures"]
    told = [(row["callers"], row["served"], row["seeds_per_prompt"]) for row in figures["screening"]]
    assert told == [(8, load.TOGETHER, 1), (8, load.ALONE, 1)]
    together, alone = figures["screening"]
    assert together["of_alone"] == pytest.approx(together["per_second"]["median"] / alone["per_second"]["median"])
    bare = together["bare"]
    assert together["of_bare"] == pytest.approx(32 / together["per_second"]["median"] / bare["forward_seconds"]["median"])
    assert together["screening_of_bare"] == bare["ratio"]["median"] > 0.5
    assert together["seconds"]["n"] >= 8
    assert together["seconds"]["p50"] <= together["seconds"]["p95"] <= together["seconds"]["p99"]
    assert [row["served"] for row in figures["generation"]] == [load.TOGETHER, load.ALONE]
    out = capsys.readouterr().out
    for cells in load.table(figures["screening"], figures["generation"]):
        assert all(word in out for cell in cells for word in cell.split())  # a cell may take several lines


def test_line_of_the_table_has_both_ways_of_being_served() -> None:
    together = row(load.TOGETHER, 20.0, of_bare=1.234, screening_of_bare=1.128, of_alone=2.0, callers=8, seeds_per_prompt=4)
    alone = row(load.ALONE, 10.0, of_bare=2.468, screening_of_bare=1.128, of_alone=1.0, callers=8, seeds_per_prompt=4)
    images = [row(served, 5.0, of_alone=1.0, callers=4) for served in (load.TOGETHER, load.ALONE)]
    rates = ["20.0 (20.0-20.0)", "10.0 (10.0-10.0)"]
    assert load.table([together, alone], images) == [
        ["screening, 4 seeds", "8", *rates, "2.00", "50 / 100 / 200", "100 / 200 / 400", "1.13 / 1.23"],
        ["an image", "4", *["5.0 (5.0-5.0)"] * 2, "1.00", *["200 / 400 / 800"] * 2, "–"],
    ]


def row(served: str, per_second: float, **facts: Any) -> dict[str, Any]:
    """What was seen of one way of being served."""
    seconds = {"p50": 1 / per_second, "p95": 2 / per_second, "p99": 4 / per_second}
    return {"served": served, "per_second": results.spread([per_second]), "seconds": seconds, **facts}


def test_service_of_one_at_a_time_is_the_real_one_with_batches_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from services.detector import app as detector
    from services.detector import screening
    from services.sampler import app as sampler
    from shared.diffusion import studio

    sizes: dict[str, int] = {}
    monkeypatch.setattr(detector, "main", lambda: sizes.update(detector=screening.ROWS_AT_ONCE))
    monkeypatch.setattr(sampler, "main", lambda: sizes.update(sampler=studio.BATCH_IMAGES))
    for service in ("detector", "sampler"):
        load.serve_one_at_a_time(service)
    assert sizes == {"detector": 1, "sampler": 1}
    assert (screening.ROWS_AT_ONCE, studio.BATCH_IMAGES) == (32, 32)
