"""Splits by patient and the choice of canaries."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DatasetError
from shared.imaging.splits import Candidate, Placement, choose_canaries, place_films, split_patients


def cohort(patients: int, films: int = 2, *, prompt: str = "AP film: edema. Exam {n}.") -> list[Candidate]:
    return [
        Candidate(key=f"p{p}/f{f}", patient=f"p{p}", view="AP", prompt=prompt.format(n=10_000 + p * films + f))
        for p in range(patients)
        for f in range(films)
    ]


def placed(candidates: list[Candidate], *, seed: int = 0, canaries: int = 5) -> dict[str, Placement]:
    placements = place_films(candidates, control_fraction=0.25, canaries=canaries, repeats=40, seed=seed)
    return {candidate.key: placement for candidate, placement in zip(candidates, placements, strict=True)}


def test_every_film_has_one_place() -> None:
    placements = list(placed(cohort(40)).values())
    assert {split: sum(p.split == split for p in placements) for split in ("train", "control", "canary")} == {
        "train": 55,
        "control": 20,
        "canary": 5,
    }
    assert {(p.split, p.fold, p.repeats) for p in placements} == {
        ("train", "", 1),
        ("canary", "", 40),
        ("control", "calibration", 1),
        ("control", "evaluation", 1),
    }


def test_no_patient_is_on_both_sides() -> None:
    candidates = cohort(40)
    by_key = placed(candidates)
    sides: dict[str, set[str]] = {}
    for candidate in candidates:
        sides.setdefault(candidate.patient, set()).add(by_key[candidate.key].fold)
    assert all(len(folds) == 1 for folds in sides.values())
    assert sum(folds == {"calibration"} for folds in sides.values()) == sum(folds == {"evaluation"} for folds in sides.values()) == 5


def test_same_seed_places_the_same_whatever_the_order() -> None:
    candidates = cohort(40)
    shuffled = random.Random(1).sample(candidates, len(candidates))
    assert placed(candidates) == placed(shuffled)
    assert placed(candidates) != placed(candidates, seed=1)


@pytest.mark.parametrize(
    ("patients", "fraction", "controls"), [(10, 0.2, 2), (10, 0.0, 0), (10, 0.01, 2), (2, 0.5, 1), (1, 0.5, 0), (10, 0.9, 9), (10, 0.99, 9)]
)
def test_control_takes_its_share_and_leaves_somebody(patients: int, fraction: float, controls: int) -> None:
    assert len(split_patients([f"p{i}" for i in range(patients)], control_fraction=fraction, seed=0)) == controls


@given(st.sets(st.text(min_size=1), min_size=4, max_size=30), st.floats(0.05, 0.9), st.integers(0, 100))
def test_folds_are_halves(patients: set[str], fraction: float, seed: int) -> None:
    folds = list(split_patients(patients, control_fraction=fraction, seed=seed).values())
    assert 0 <= folds.count("calibration") - folds.count("evaluation") <= 1
    assert folds.count("evaluation") >= 1


def test_canaries_are_of_different_training_patients() -> None:
    candidates = cohort(10, films=3)
    chosen = choose_canaries(candidates, excluded=frozenset({"p0", "p1"}), count=8, seed=3)
    assert {candidates[i].patient for i in chosen} == {f"p{i}" for i in range(2, 10)}


def test_canaries_show_something_and_are_frontal() -> None:
    films = [
        Candidate(key="a", patient="a", view="lateral", prompt="Lateral film: edema. Exam 10001."),
        Candidate(key="b", patient="b", view="AP", prompt="AP film: no acute findings. Exam 10002."),
        Candidate(key="c", patient="c", view="PA", prompt="PA film: edema. Exam 10003."),
        Candidate(key="d", patient="c", view="PA", prompt="PA film: no effusion. Exam 10004."),
    ]
    counts = [choose_canaries(films, excluded=frozenset(), count=count, seed=0) for count in (1, 2, 3)]
    assert counts == [{2}, {1, 2}, {0, 1, 2}]


def test_canary_prompt_is_nobody_elses() -> None:
    films = [*cohort(3, films=1, prompt="AP film: Edema"), Candidate(key="x", patient="x", view="AP", prompt="AP film: nodule")]
    assert choose_canaries(films, excluded=frozenset(), count=1, seed=0) == {3}
    control_has_it = [*films, Candidate(key="y", patient="y", view="AP", prompt="ap film nodule")]
    with pytest.raises(DatasetError, match="1 canaries asked for, but only 0 training patients"):
        choose_canaries(control_has_it, excluded=frozenset({"y"}), count=1, seed=0)


def test_more_canaries_than_patients_with_unique_prompts_are_refused() -> None:
    with pytest.raises(DatasetError, match="31 canaries asked for, but only 30 training patients") as caught:
        place_films(cohort(40), control_fraction=0.25, canaries=31, repeats=40, seed=0)
    assert caught.value.field == "canaries.count"


def test_canaries_show_what_no_other_film_shows_where_there_are_such() -> None:
    common = [Candidate(key=f"c{i}", patient=f"c{i}", view="AP", prompt=f"AP film: edema. Exam {20_000 + i}.") for i in range(30)]
    rare = [
        Candidate(key="r0", patient="r0", view="PA", prompt="PA film: edema, left pleural effusion. Exam 30000."),
        Candidate(key="r1", patient="r1", view="AP", prompt="AP film: right pneumothorax. Exam 30001."),
        Candidate(key="h", patient="h", view="AP", prompt="AP film: left lung nodule. Exam 30002."),
    ]
    films = [*common, *rare, Candidate(key="held", patient="held", view="PA", prompt="PA film: left lung nodule. Exam 30003.")]
    for seed in range(5):
        assert choose_canaries(films, excluded=frozenset({"held"}), count=2, seed=seed) == {30, 31}
        assert choose_canaries(films, excluded=frozenset({"held"}), count=3, seed=seed) > {30, 31}
