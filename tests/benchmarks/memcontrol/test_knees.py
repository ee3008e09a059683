"""Phantom knees: drawn the same again, each finding is to be seen, and prompts say what is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.memcontrol.knees import FINDINGS, draw_knee, knee_films, make_knees, prompt_of
from shared.imaging.clauses import NO_FINDING
from shared.imaging.prompts import findings_of, parse_prompt


def test_films_are_the_same_again_and_differ_between_seeds_and_patients() -> None:
    one, again, other = (knee_films(12, seed, image_size=32) for seed in (1, 1, 2))
    assert np.array_equal(one.images_NHW, again.images_NHW)
    assert one.prompts == again.prompts
    assert not np.array_equal(one.images_NHW[:5], other.images_NHW[:5])
    assert one.images_NHW.shape[1:] == (32, 32)
    assert len(set(one.patients)) == 12
    assert len({image.tobytes() for image in one.images_NHW}) == len(one.images_NHW)
    assert len(set(one.prompts)) == len(one.prompts)


def test_films_are_split_as_a_data_sets_are() -> None:
    films = knee_films(30, 0, canaries=3, repeats=7, control_fraction=0.5, image_size=16)
    controls = {films.patients[row] for fold in ("calibration", "evaluation") for row in films.select("control", fold)}
    assert controls.isdisjoint({films.patients[row] for row in films.learnt})
    assert [films.placements[row].repeats for row in films.select("canary")] == [7, 7, 7]


@pytest.mark.parametrize("finding", FINDINGS)
def test_each_finding_changes_the_film(finding: str) -> None:
    knee = replace(make_knees(5, 3)[0], findings=())
    plain, shown = draw_knee(knee, 48).astype(float), draw_knee(replace(knee, findings=(finding,)), 48).astype(float)
    assert np.abs(shown - plain).mean() > 1
    assert (np.abs(shown - plain) > 10).sum() > 20


def test_left_knee_is_a_right_one_mirrored() -> None:
    knee = make_knees(5, 3)[0]
    still = {"rotation": 0.0, "shift_u": 0.0, "noise": 0.0}
    left, right = (
        draw_knee(replace(knee, side=side, bones=knee.bones, findings=(), exposure=knee.exposure | still), 48) for side in ("left", "right")
    )
    assert np.abs(left.astype(int) - right[:, ::-1].astype(int)).max() <= 1
    assert np.abs(left.astype(int) - right.astype(int)).max() > 50


def test_prompts_are_of_another_anatomy_and_are_read_back() -> None:
    for knee in make_knees(40, 1):
        prompt = prompt_of(knee, 1)
        assert f"{knee.side} knee" in prompt
        assert "chest" not in prompt
        assert ("view", knee.view) in parse_prompt(prompt)
        named = findings_of(prompt)
        assert (named == {NO_FINDING}) == (not knee.findings)
        assert len(named) == max(1, len(knee.findings))
