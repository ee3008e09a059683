"""The procedural radiographs: the same for the same seed, findings where the label says, several films a patient."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.imaging.phantom import FINDINGS, SIDED, UNSIDED, Film, Side, draw, make_cohort

SIZE = 64
COHORT = make_cohort(60, seed=3)


def plain(view: str, index: int = 0) -> Film:
    """A film of the cohort with that view, without findings and nearly without noise."""
    film = [film for film in COHORT if film.view == view][index]
    return replace(film, findings={}, exposure=film.exposure | {"noise": 0.0})


def change(film: Film, finding: str, side: Side | None) -> NDArray[np.float64]:
    """How a finding changes the pixels."""
    return draw(replace(film, findings={finding: side}), SIZE).astype(float) - draw(film, SIZE).astype(float)


def test_cohort_is_the_same_for_the_same_seed() -> None:
    assert make_cohort(60, seed=3) == COHORT
    assert make_cohort(60, seed=4) != COHORT


def test_patient_does_not_depend_on_the_size_of_the_cohort() -> None:
    few = {film.patient.id: film.patient for film in make_cohort(5, seed=3)}
    many = {film.patient.id: film.patient for film in COHORT}
    assert all(many[identity] == patient for identity, patient in few.items())


def test_film_is_drawn_the_same_each_time() -> None:
    assert all(np.array_equal(draw(film, SIZE), draw(film, SIZE)) for film in COHORT[:5])


@pytest.mark.parametrize("size", [32, 64, 128])
def test_film_is_grey_of_its_size_and_uses_its_range(size: int) -> None:
    for film in COHORT[:6]:
        image = draw(film, size)
        assert image.shape == (size, size)
        assert image.dtype == np.uint8
        assert int(image.max()) - int(image.min()) > 120


def test_patients_have_one_to_four_films_and_their_own_anatomy() -> None:
    counts = Counter(film.patient.id for film in COHORT)
    assert set(counts) == set(range(1, 61))
    assert set(counts.values()) == {1, 2, 3, 4}
    for identity in counts:
        films = [film for film in COHORT if film.patient.id == identity]
        assert len({id(film.patient) for film in films}) == 1
        assert [film.study for film in films] == list(range(1, len(films) + 1))
    assert len({tuple(film.patient.anatomy.values()) for film in COHORT}) == 60


def test_accession_numbers_are_distinct_and_of_five_digits() -> None:
    numbers = [film.accession for film in make_cohort(400, seed=0)]
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) >= 10_000
    assert max(numbers) < 100_000


def test_films_of_a_patient_are_more_alike_than_those_of_strangers() -> None:
    frontal = [film for film in COHORT if film.view != "lateral"]
    images = np.stack([draw(replace(film, findings={}), SIZE) for film in frontal]).reshape(len(frontal), -1)
    likeness = np.corrcoef(images)
    patients = np.array([film.patient.id for film in frontal])
    same = (patients[:, None] == patients) & ~np.eye(len(frontal), dtype=bool)
    assert likeness[same].mean() > likeness[patients[:, None] != patients].mean() + 0.05


def test_every_view_finding_and_side_occurs() -> None:
    cohort = make_cohort(400, seed=0)
    assert {film.view for film in cohort} == {"AP", "PA", "lateral"}
    seen = Counter(item for film in cohort for item in film.findings.items())
    assert set(seen) == {(name, side) for name in SIDED for side in ("left", "right")} | {(name, None) for name in UNSIDED}
    assert any(not film.findings for film in cohort)
    assert max(len(film.findings) for film in cohort) == 3
    assert {film.patient.sex for film in cohort} == {"Male", "Female"}
    assert all(18 <= film.patient.age <= 90 for film in cohort)


@pytest.mark.parametrize("view", ["AP", "PA"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("finding", SIDED)
def test_sided_finding_is_drawn_on_its_side(finding: str, side: Side, view: str) -> None:
    """The patient's left is on the right of the image."""
    for index in range(3):
        moved = np.abs(change(plain(view, index), finding, side))
        on_right, on_left = moved[:, SIZE // 2 :].sum(), moved[:, : SIZE // 2].sum()
        own, other = (on_right, on_left) if side == "left" else (on_left, on_right)
        assert own > 8 * other, (finding, index)
        assert moved.max() > 15


@pytest.mark.parametrize("finding", UNSIDED)
def test_unsided_finding_changes_the_film(finding: str) -> None:
    for index in range(3):
        assert np.abs(change(plain("PA", index), finding, None)).max() > 25


@pytest.mark.parametrize("finding", FINDINGS)
def test_finding_changes_a_lateral_film(finding: str) -> None:
    moved = np.abs(change(plain("lateral"), finding, "left" if finding in SIDED else None))
    assert moved.max() > 15


def test_air_is_darker_and_fluid_brighter() -> None:
    film = plain("PA")
    assert change(film, "Pleural Effusion", "left").sum() > 0
    assert change(film, "Consolidation", "left").sum() > 0
    assert change(film, "Pneumothorax", "left").min() < -15


def test_fluid_gathers_below() -> None:
    moved = np.abs(change(plain("PA"), "Pleural Effusion", "right"))
    assert moved[SIZE // 2 :].sum() > 5 * moved[: SIZE // 2].sum()


def test_enlarged_heart_is_wider() -> None:
    moved = change(plain("PA"), "Cardiomegaly", None)
    assert moved.max() > 25
    assert moved[SIZE // 2 : -SIZE // 8].sum() > moved[: SIZE // 2].sum()


def test_view_and_pose_change_the_film() -> None:
    film = plain("PA")
    assert np.abs(draw(replace(film, view="AP"), SIZE).astype(int) - draw(film, SIZE)).max() > 20
    turned = replace(film, exposure=film.exposure | {"rotation": film.exposure["rotation"] + 0.1})
    assert np.abs(draw(turned, SIZE).astype(int) - draw(film, SIZE)).max() > 20


def test_marker_stands_on_the_patients_left() -> None:
    film = plain("PA")
    lower = replace(film, exposure=film.exposure | {"marker_v": 0.5})
    moved = np.abs(draw(lower, SIZE).astype(int) - draw(film, SIZE))
    assert moved[:, : SIZE // 2].max() <= 1
    assert moved[:, SIZE // 2 :].max() > 10
