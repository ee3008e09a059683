"""A reference of the phantom data set, shared by all tests that read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.memorization.rewards.effort import Effort

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.memorization.galleries import FilmSet, Gallery
    from shared.memorization.rewards.reference import Reference
    from tests.fixtures.judging import JudgingHome

EFFORT = Effort(images_per_canary=3, control_prompts=7, sampling_steps=2, noises=2, seed=3)


@pytest.fixture(scope="session")
def films_of(shared_judging_home: JudgingHome) -> Callable[..., FilmSet]:
    """Films of the data set by split and fold."""
    from shared.catalog import open_catalog
    from shared.imaging.films import FilmTable
    from shared.memorization.galleries import read_films

    with open_catalog(shared_judging_home.settings) as catalog:
        table = FilmTable(catalog.fetch(shared_judging_home.stocked.dataset))
    return lambda *splits, fold="": read_films(table, table.select(*splits, fold=fold))


@pytest.fixture(scope="session")
def reference(gallery: Gallery, films_of: Callable[..., FilmSet]) -> Reference:
    """What models are measured against."""
    from shared.memorization.rewards.reference import Reference

    controls, others = (films_of("control", fold=fold) for fold in ("calibration", "evaluation"))
    return Reference.of(gallery, films_of("canary"), controls, others, films_of("train", "canary"), EFFORT)
