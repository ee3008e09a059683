"""The training benchmark: every lane steps as often, by turns, and each loop learns."""

from __future__ import annotations

import pytest
import torch

from benchmarks import training
from benchmarks.material import phantom_films, random_model
from benchmarks.training import LANES, UNCOUNTED, Lane, lanes_of, ratios, run_by_turns


def test_lanes_take_turns_and_the_first_steps_do_not_count() -> None:
    taken: list[str] = []
    lanes = {name: Lane(lambda name=name: taken.append(name)) for name in ("a", "b", "c")}
    run_by_turns(lanes, UNCOUNTED + 2)
    assert taken[:9] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert [len(lane.wall) for lane in lanes.values()] == [len(lane.cpu) for lane in lanes.values()] == [2, 2, 2]


def test_ratios_are_those_of_medians() -> None:
    times = {"bare": 2.0, "lethe": 3.0, "bare frozen": 1.0, "lethe frozen": 1.5, "lethe uncached": 3.0, "accelerate": 4.5}
    lanes = {name: Lane(lambda: None, wall=[seconds] * 3, cpu=[seconds * 2, seconds * 2, 99]) for name, seconds in times.items()}
    found = ratios(lanes)
    assert {name: value["wall"] for name, value in found.items()} == {
        "overhead": 1.5,
        "overhead_frozen": 1.5,
        "caches": 2.0,
        "accelerate": 3.0,
    }
    assert all(value["wall"] == value["cpu"] for value in found.values())


def test_every_lane_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "BATCH", 2)
    films = phantom_films(4, 0).training_set()
    model = random_model(films.prompts, 0)
    before = [p.detach().clone() for p in model.unet.parameters()]
    lanes = run_by_turns(lanes_of(model, films, UNCOUNTED + 1, 0), UNCOUNTED + 1)
    assert list(lanes) == list(LANES)
    assert all(len(lane.wall) == 1 and lane.wall[0] > 0 for lane in lanes.values())
    assert all(torch.equal(a, b) for a, b in zip(before, model.unet.parameters(), strict=True))  # each lane has a copy of its own
