"""The regime of the full comparison is large enough for its figures to mean something."""

from __future__ import annotations

from benchmarks.memorization.regime import FULL, QUICK


def test_every_canary_is_visited_often_and_an_ordinary_film_seldom() -> None:
    films = FULL.patients * (1 - FULL.control_fraction) * 2  # a patient has about two frontal films
    cards = films + FULL.canaries * FULL.repeats
    epochs = FULL.steps * FULL.batch / cards
    assert epochs * FULL.repeats > 250
    assert epochs < 20


def test_clique_fits_into_the_images_of_a_canary() -> None:
    assert FULL.clique <= FULL.images_per_canary
    assert QUICK.clique <= QUICK.images_per_canary


def test_quick_is_a_small_part_of_the_whole() -> None:
    assert QUICK.steps * 10 < FULL.steps
    assert QUICK.sampling_steps < FULL.sampling_steps
