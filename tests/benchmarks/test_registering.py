"""Registering in a process of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from benchmarks import ingest, registering


def test_registration_prints_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = np.random.default_rng(0).integers(0, 256, (4, 64, 64)).astype(np.float32)
    ingest.write_source(tmp_path / "set", 110, pool, 0)
    with mock.patch.object(sys, "argv", ["registering", str(tmp_path / "home"), str(tmp_path / "set"), "110"]):
        registering.main()
    told = json.loads(capsys.readouterr().out)
    assert set(told["seconds"]) >= {"all", "reading films", "looking for copies", "storing the data set", "next_page", "last_picture"}
    phases = [name for name in told["seconds"] if " " in name]
    assert sum(told["seconds"][name] for name in phases) >= 0.5 * told["seconds"]["all"]


def test_lost_films_fail_the_benchmark(tmp_path: Path) -> None:
    pool = np.random.default_rng(0).integers(0, 256, (4, 64, 64)).astype(np.float32)
    ingest.write_source(tmp_path / "set", 20, pool, 0)
    argv = ["registering", str(tmp_path / "home"), str(tmp_path / "set"), "21"]
    with mock.patch.object(sys, "argv", argv), pytest.raises(SystemExit, match="21 films were written"):
        registering.main()
