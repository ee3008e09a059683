"""References: held-out films chosen by seed, floors of real films, and what is read is what was saved."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from shared.errors import ConflictError
from shared.memorization.frechet_distance import frechet_distance
from shared.memorization.galleries import FilmSet, site_features
from shared.memorization.rewards.reference import Reference, unit_variance
from tests.shared.memorization.rewards.conftest import EFFORT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

NOBODY = FilmSet([], [], [], np.zeros((0, 32, 32), dtype=np.uint8))


def some(films: FilmSet, rows: Sequence[int]) -> FilmSet:
    return FilmSet(*([values[row] for row in rows] for values in (films.records, films.patients, films.prompts)), films.images_NHW[rows])


@pytest.fixture
def of(reference: Reference, films_of: Callable[..., FilmSet]) -> Callable[..., Reference]:
    def made(**changed: Any) -> Reference:
        sets = {
            "canaries": films_of("canary"),
            "controls": films_of("control", fold="calibration"),
            "others": films_of("control", fold="evaluation"),
            "training": films_of("train", "canary"),
            "effort": EFFORT,
        }
        return Reference.of(reference.gallery, **sets | changed)

    return made


def test_as_many_controls_are_taken_as_the_effort_allows_and_always_the_same(of: Callable[..., Reference], reference: Reference) -> None:
    assert len(reference.controls.records) == EFFORT.control_prompts
    few = EFFORT.model_copy(update={"control_prompts": 3})
    chosen = [of(effort=few).controls, of(effort=few).controls, of(effort=few.model_copy(update={"seed": 4})).controls]
    assert chosen[0].records == chosen[1].records == sorted(chosen[0].records)
    assert set(chosen[0].records) < set(reference.controls.records)
    assert chosen[0].records != chosen[2].records
    for row, record in enumerate(chosen[0].records):
        place = reference.controls.records.index(record)
        assert chosen[0].prompts[row] == reference.controls.prompts[place]
        assert np.array_equal(chosen[0].images_NHW[row], reference.controls.images_NHW[place])


def test_floor_is_what_real_films_of_the_controls_score(of: Callable[..., Reference], reference: Reference) -> None:
    features = site_features(reference.gallery, reference.controls.images_NHW)
    assert reference.floors["fid"] == frechet_distance(features, reference.real_features_ND) > 0
    same = of(others=reference.controls)
    assert same.floors["fid"] == pytest.approx(0, abs=1e-6)
    assert same.floors["kid"] < reference.floors["kid"]


def test_limit_of_an_edge_lies_below_the_nearest_strangers(of: Callable[..., Reference], reference: Reference) -> None:
    assert 0 < reference.edge_limit < 1
    assert of(training=reference.controls).edge_limit == pytest.approx(0, abs=1e-6)  # strangers that are the same films


def test_reference_is_read_as_it_was_saved(reference: Reference, films_of: Callable[..., FilmSet], tmp_path: Path) -> None:
    films = films_of()
    reference.save(tmp_path)
    read = Reference.read(tmp_path, reference.gallery, lambda records: some(films, [films.records.index(record) for record in records]))
    for name in ("canaries", "controls"):
        kept, made = getattr(read, name), getattr(reference, name)
        assert (kept.records, kept.prompts, kept.patients) == (made.records, made.prompts, made.patients)
        assert np.array_equal(kept.images_NHW, made.images_NHW)
    assert np.array_equal(read.real_features_ND, reference.real_features_ND)
    assert (read.real_patients, read.edge_limit, read.floors) == (reference.real_patients, reference.edge_limit, reference.floors)


@pytest.mark.parametrize(("missing", "told"), [("canaries", "canaries"), ("controls", "control_fraction"), ("others", "control_fraction")])
def test_data_set_without_what_is_measured_on_is_refused(of: Callable[..., Reference], missing: str, told: str) -> None:
    with pytest.raises(ConflictError, match=told):
        of(**{missing: NOBODY})


def test_too_few_real_films_have_no_balls(reference: Reference) -> None:
    with pytest.raises(ConflictError, match="too few for precision"):
        _ = replace(reference, real_features_ND=reference.real_features_ND[:5]).real_manifold


def test_codes_become_features_of_variance_one(reference: Reference) -> None:
    scaled_ND = unit_variance(reference.real_features_ND)
    assert scaled_ND.var(1) == pytest.approx(1, rel=1e-4)
    assert scaled_ND @ scaled_ND.T / scaled_ND.shape[1] == pytest.approx(reference.real_features_ND @ reference.real_features_ND.T)
