"""The benchmark of parameters: a lane of each kind, each on a model of its own, and the ratios that have targets."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks import parameters, results
from benchmarks.material import phantom_films, random_model
from benchmarks.parameters import FILTERED, KINDS, TARGETS, Case, lanes_of, main, ratios
from benchmarks.training import UNCOUNTED, Lane, run_by_turns

if TYPE_CHECKING:
    from pathlib import Path


def test_ratios_are_those_of_medians() -> None:
    times = dict.fromkeys(KINDS, 3.0) | {"lora": 2.0, "svdiff": 2.5, FILTERED: 3.3}
    lanes = {name: Lane(lambda: None, wall=[seconds] * 3, cpu=[2 * seconds, 2 * seconds, 99]) for name, seconds in times.items()}
    found = ratios(lanes)
    assert found["svdiff/lora"] == pytest.approx({"wall": 1.25, "cpu": 1.25})
    assert found[f"{FILTERED}/full"] == pytest.approx({"wall": 1.1, "cpu": 1.1})
    assert found.keys() > TARGETS.keys()


def test_every_lane_trains_a_copy() -> None:
    films = phantom_films(4, 0).training_set()
    case = Case(random_model(films.prompts, 0), films, 2, UNCOUNTED + 1)
    before = [p.detach().clone() for p in case.model.unet.parameters()]
    lanes = run_by_turns(lanes_of(case, 0), case.steps)
    assert list(lanes) == [*KINDS, FILTERED]
    assert all(len(lane.wall) == 1 and lane.wall[0] > 0 for lane in lanes.values())
    assert all(torch.equal(a, b) for a, b in zip(before, case.model.unet.parameters(), strict=True))


def test_command_keeps_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(parameters, "phantom_films", lambda _patients, seed: phantom_films(4, seed))
    monkeypatch.setattr(sys, "argv", ["parameters", "--steps", str(UNCOUNTED + 1), "--larger-steps", "0", "--batch", "2"])
    main()
    kept = json.loads((tmp_path / "parameters.json").read_text(encoding="utf-8"))
    assert kept["figures"]["tiny, 64 px"]["lanes"].keys() == {*KINDS, FILTERED}
    assert kept["figures"]["tiny, 64 px"]["ratios"]["svdiff/lora"]["wall"] > 0
    assert 0 < kept["figures"]["tiny, 64 px"]["filter_seconds"]["median"] < 0.1
    assert "svdiff/lora" in capsys.readouterr().out
