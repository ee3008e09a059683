"""Hypervolumes, shares and rows of courses whose figures are made up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.memcontrol.course import Course
from benchmarks.memcontrol.summary import hypervolumes, is_dominated, over_seeds, share_to_reach, transfer_rows
from services.trainer.search.front import Box
from tests.benchmarks.memcontrol.made_up import attempt, ended, seed_of

BOX = Box(np.zeros(2), np.ones(2))


def test_hypervolume_grows_by_what_each_training_adds_and_costs_what_was_ended_early() -> None:
    course = Course("ours", 0, [attempt(0.5, 0.5), ended(3), attempt(0.75, 0.25), attempt(0.9, 0.9), attempt(0.0, 0.0)])
    assert hypervolumes(course, BOX) == [(10, 0.25), (13, 0.25), (23, 0.3125), (33, 0.3125), (43, 1.0)]


def test_share_to_reach_is_where_a_curve_first_comes_to_it() -> None:
    curve = [(10, 0.1), (20, 0.4), (30, 0.4)]
    assert share_to_reach(curve, 0.4, 40) == 0.5
    assert share_to_reach(curve, 0.05, 40) == 0.25
    assert share_to_reach(curve, 0.41, 40) is None


def test_point_is_dominated_by_what_is_nowhere_worse() -> None:
    assert is_dominated([1, 1], [[2, 0], [1, 1]])
    assert is_dominated([1, 1], [[1, 0.5]])
    assert not is_dominated([1, 1], [[2, 0], [0, 2]])
    assert not is_dominated([1, 1], [])


def test_box_is_around_fronts_and_what_diverged_does_not_stretch_it() -> None:
    seed = seed_of({"ours": [(0.0, 1.0), (0.5, 0.5), (50.0, 70.0)], "full": [(1.0, 0.2), (2.0, 60.0)]}, {}, {})
    assert seed.box.ideal_K.tolist() == [0.0, 0.2]
    assert seed.box.reference_K == pytest.approx([1.1, 1.08])
    assert seed.best_fid == 0.2


def test_row_tells_copies_near_the_best_fid_of_all_and_the_chosen_point() -> None:
    points = {"ours": [(0.3, 0.52), (0.1, 0.54), (0.5, 0.5)], "full": [(0.9, 0.6)]}
    seed = seed_of(points, {"ours": [(0.2, 0.55)], "full": [(0.8, 0.7)]}, {})
    ours, full = seed.row("ours"), seed.row("full")
    assert (ours["chosen_memorization"], ours["chosen_fid"]) == (0.3, 0.52)  # 0.54 is more than 5 % from 0.5
    assert (ours["judged_memorization"], ours["judged_fid"]) == (0.2, 0.55)
    assert ours["copies_near_best_fid"] == 0.0
    assert full["copies_near_best_fid"] is None
    assert (ours["steps"], ours["trainings"], ours["ended_early"], ours["seconds"]) == (30, 3, 0, 6.0)
    assert 0 < full["hypervolume"] < ours["hypervolume"] < 1


def test_seeds_are_summed_up_and_seeds_without_a_figure_left_out() -> None:
    rows: list[dict[str, Any]] = [
        {"seed": 4, "steps": 10, "copies_near_best_fid": None},
        {"seed": 5, "steps": 30, "copies_near_best_fid": 0.5},
    ]
    assert over_seeds(rows) == {
        "seed": [4, 5],
        "steps": {"mean": 20.0, "low": 10.0, "high": 30.0, "n": 2},
        "copies_near_best_fid": {"mean": 0.5, "low": 0.5, "high": 0.5, "n": 1},
    }
    assert over_seeds(rows[:1])["copies_near_best_fid"] is None


def test_transfer_tells_what_was_measured_again_at_the_other_site() -> None:
    seeds = [seed_of({}, {}, {"ours": (0.1 * seed, 0.5), "full": (1.0, 0.4)}, seed) for seed in (1, 3)]
    rows = transfer_rows(seeds)
    assert list(rows) == ["ours", "full"]
    assert rows["ours"]["memorization"] == {"mean": pytest.approx(0.2), "low": 0.1, "high": pytest.approx(0.3), "n": 2}
    assert rows["full"]["fid"]["mean"] == 0.4
