"""The whole comparison in small, as the pipeline runs it: every figure is there, sane, and not computed twice."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from PIL import Image

from benchmarks import results
from benchmarks.memorization import __main__ as program
from benchmarks.memorization.methods import QUICK_METHODS
from benchmarks.memorization.regime import QUICK

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_quick_run_prints_keeps_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        mock.patch.object(program, "FOLDER", tmp_path),
        mock.patch.object(results, "FOLDER", tmp_path),
        mock.patch.object(sys, "argv", ["memorization", "--quick", "--workers", "1"]),
    ):
        program.main()
        first = capsys.readouterr().out
        units = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("units/*.json")}
        program.main()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("units/*.json")} == units
    assert "units to do" not in capsys.readouterr().out
    assert "What was to be shown" in first

    content = json.loads((tmp_path / "memorization-quick.json").read_text())
    rows = content["figures"]["rows"]
    assert {row["method"] for row in rows} == set(QUICK_METHODS)
    assert len(rows) == len(units) == 2 * len(QUICK_METHODS) - 1  # SV-DIFF is fine-tuned only
    for row in rows:
        assert 0 <= row["copies"]["low"] <= row["copies"]["value"] <= row["copies"]["high"] <= 1
        assert row["copies"]["n"] == QUICK.canaries
        assert 0 <= row["extracted"]["mean"] <= QUICK.canaries
        assert 0 <= row["score_auc"]["mean"] <= 1
        assert 0 <= row["agreement"]["mean"] <= 1
        assert row["fid"]["mean"] > row["fid_floor"]["mean"] > 0  # after a few steps
        assert row["step_seconds"]["mean"] > 0
        assert (row["trainable_fraction"]["mean"] < 0.01) == (row["method"] == "SV-DIFF")
        assert (row["skipped_share"]["mean"] > 0) <= ("AGC" in row["method"])
    assert {verdict["outcome"] for verdict in content["figures"]["verdicts"]} <= {"met", "not met", "undecided"}
    assert any("IET-AGC+ lowers" in verdict["claim"] for verdict in content["figures"]["verdicts"])
    with Image.open(tmp_path / "memorization-quick.png") as picture:
        assert picture.width > 1000
