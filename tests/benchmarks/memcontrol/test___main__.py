"""The whole comparison in small: every figure is there and sane, nothing is done twice, and what is told is what was kept."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from PIL import Image

from benchmarks import results
from benchmarks.memcontrol import __main__ as program
from benchmarks.memcontrol import schedule
from benchmarks.memcontrol.contenders import QUICK_CONTENDERS
from benchmarks.memcontrol.regime import QUICK
from services.trainer import text_pretraining, training
from shared.memorization import galleries

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_quick_run_prints_keeps_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (galleries, "EMBEDDER_STEPS"),
        (galleries, "READER_STEPS"),
        (training, "AUTOENCODER_STEPS"),
        (text_pretraining, "STEPS"),
    ):
        monkeypatch.setattr(module, name, 4)
    monkeypatch.setattr(schedule, "one_thread_workers", ThreadPoolExecutor)  # processes would not know of the few steps
    monkeypatch.setattr(program, "FOLDER", tmp_path)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    with mock.patch.object(sys, "argv", ["memcontrol", "--quick", "--workers", "1"]):
        program.main()
        first = capsys.readouterr().out
        units = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("units/*")}
        program.main()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("units/*")} == units
    assert "tasks to do" in first
    assert "tasks to do" not in capsys.readouterr().out
    assert "What was to be shown" in first

    content = json.loads((tmp_path / "memcontrol-quick.json").read_text())
    figures = content["figures"]
    assert set(figures["rows"]) == set(QUICK_CONTENDERS)
    assert set(figures["transfer"]) == {"ours", "full", "SV-DIFF"}
    for name, row in figures["rows"].items():
        assert 0 <= row["hypervolume"]["mean"] <= 1
        assert 0 < row["steps"]["high"] <= QUICK.budget
        assert row["chosen_fid"]["mean"] > 0
        assert row["judged_fid"]["mean"] > 0
        assert 0 <= row["judged_copy_rate"]["mean"] <= 1
        assert row["trainable_fraction"]["mean"] == 1 or name != "full"
        curve = figures["curves"]["0"][name]
        assert [steps for steps, _ in curve] == sorted(steps for steps, _ in curve)
        assert [share for _, share in curve] == sorted(share for _, share in curve)
        assert curve[-1] == [row["steps"]["mean"], row["hypervolume"]["mean"]]
    assert any(row["hypervolume"]["mean"] > 0 for row in figures["rows"].values())
    assert {verdict["outcome"] for verdict in figures["verdicts"]} <= {"met", "not met"}
    assert len(figures["verdicts"]) == 2 + 1 + 1 + 1
    assert set(figures["fid_of_real_films"]) == {"chest", "knee"}
    with Image.open(tmp_path / "memcontrol-quick.png") as picture:
        assert picture.width > 1000
