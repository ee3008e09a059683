"""The procedural radiographs: the same for the same seed, and what is asked for is to be seen where it belongs."""

from __future__ import annotations

import numpy as np
import pytest

from shared.imaging.phantom import FINDINGS, SIDED, Film, Side, draw, make_cohort

COHORT = make_cohort(200, 0)
PLAIN = next(film for film in COHORT if film.view == "PA" and not film.findings)


def with_finding(name: str, side: Side | None) -> Film:
    return Film(PLAIN.patient, PLAIN.study, PLAIN.view, {name: side}, PLAIN.accession, PLAIN.exposure)


def change(name: str, side: Side | None) -> np.ndarray:
    return draw(with_finding(name, side), 64).astype(int) - draw(PLAIN, 64)


def test_cohort_follows_its_seed() -> None:
    assert make_cohort(20, 3) == make_cohort(20, 3)
    assert make_cohort(20, 3) != make_cohort(20, 4)


def test_accessions_are_unique_numbers_of_five_digits() -> None:
    accessions = [film.accession for film in COHORT]
    assert len(set(accessions)) == len(accessions)
    assert 10_000 <= min(accessions) <= max(accessions) <= 99_999


def test_cohort_has_what_a_clinic_sees() -> None:
    assert {film.view for film in COHORT} == {"AP", "PA", "lateral"}
    assert {name for film in COHORT for name in film.findings} == set(FINDINGS)
    assert all((side is not None) == (name in SIDED) for film in COHORT for name, side in film.findings.items())
    assert {film.patient.id for film in COHORT} == set(range(1, 201))
    assert any(not film.findings for film in COHORT)


def test_film_is_drawn_the_same_every_time() -> None:
    image = draw(COHORT[0], 32)
    assert image.shape == (32, 32)
    assert image.dtype == np.uint8
    assert np.array_equal(image, draw(COHORT[0], 32))


def test_films_of_different_patients_differ() -> None:
    frontal = [draw(film, 32).astype(int) for film in COHORT if film.view == "PA"][:6]
    differences = [np.abs(a - b).mean() for i, a in enumerate(frontal) for b in frontal[:i]]
    assert min(differences) > 5


@pytest.mark.parametrize("name", SIDED)
def test_sided_finding_is_seen_on_its_side(name: str) -> None:
    left, right = (np.abs(change(name, side)) for side in ("left", "right"))
    # As on a radiograph, the patient's left is on the right of the image.
    assert left[:, 34:].sum() > 3 * left[:, :30].sum()
    assert right[:, :30].sum() > 3 * right[:, 34:].sum()


@pytest.mark.parametrize("name", FINDINGS)
def test_every_finding_changes_the_film(name: str) -> None:
    assert np.abs(change(name, "left" if name in SIDED else None)).max() > 25
