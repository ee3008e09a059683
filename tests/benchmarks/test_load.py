"""The load benchmark on real services: it runs, keeps what it saw, and serves one at a time where it says so."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING
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
    assert together["of_bare"] == pytest.approx(32 / together["per_second"]["median"] / together["bare_seconds"]["median"])
    assert together["seconds"]["n"] >= 8
    assert together["seconds"]["p50"] <= together["seconds"]["p95"] <= together["seconds"]["p99"]
    assert [row["served"] for row in figures["generation"]] == [load.TOGETHER, load.ALONE]
    assert "8 " in capsys.readouterr().out


def test_service_of_one_at_a_time_is_the_real_one_with_batches_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from services.detector import app as detector
    from services.detector import screening
    from services.sampler import app as sampler
    from shared.diffusion import studio

    sizes: dict[str, int] = {}
    monkeypatch.setattr(detector, "main", lambda: sizes.update(detector=screening.PROMPTS_AT_ONCE))
    monkeypatch.setattr(sampler, "main", lambda: sizes.update(sampler=studio.BATCH_IMAGES))
    for service in ("detector", "sampler"):
        load.serve_one_at_a_time(service)
    assert sizes == {"detector": 1, "sampler": 1}
    assert (screening.PROMPTS_AT_ONCE, studio.BATCH_IMAGES) == (32, 32)
