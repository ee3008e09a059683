"""The benchmark of registering, on a few films."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from benchmarks import ingest, results


@pytest.fixture
def pool() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 64, 64)).astype(np.float32)


def test_source_is_in_chexperts_layout(tmp_path: Path, pool: np.ndarray) -> None:
    ingest.write_source(tmp_path / "set", 7, pool, 0)
    lines = (tmp_path / "set/train.csv").read_text().splitlines()
    assert len(lines) == 8
    assert len(list((tmp_path / "set").rglob("*.jpg"))) == 7
    assert len({line.split("/")[2] for line in lines[1:]}) == 3


def test_figures_are_printed_and_kept(tmp_path: Path, pool: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        mock.patch.object(sys, "argv", ["ingest", "--films", "40", "30"]),
        mock.patch.object(ingest, "_draw_pool", return_value=pool),
        mock.patch.object(ingest, "FOLDER", tmp_path),
        mock.patch.object(results, "FOLDER", tmp_path),
    ):
        ingest.main()
    figures = json.loads((tmp_path / "ingest.json").read_text())["figures"]
    assert [row["films"] for row in figures] == [30, 40]
    for row in figures:
        assert row["films_per_second"] == pytest.approx(row["films"] / row["seconds"]["all"])
        assert row["seconds"]["reading films"] < row["seconds"]["all"]
        assert 50 < row["peak_mib_before"] <= row["peak_mib"]
        assert row["parts"] == 1
    assert "peak MiB" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [tmp_path / "ingest.json"]
