"""Measures of images that are known: perfect copies, and the very films of the held-out patients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks.material import phantom_films, random_model
from benchmarks.memorization import measures
from benchmarks.memorization.material import Material, fit_and_judge
from benchmarks.memorization.measures import measure
from benchmarks.memorization.regime import Regime
from shared.memorization import galleries

if TYPE_CHECKING:
    from collections.abc import Callable

REGIME = Regime(images_per_canary=4, clique=3, screening_seeds=1)
CANARIES = 4


@pytest.fixture(scope="module")
def material() -> Material:
    films = phantom_films(50, 5, canaries=CANARIES, repeats=3, control_fraction=0.5, image_size=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(galleries, "EMBEDDER_STEPS", 30)
        patch.setattr(galleries, "READER_STEPS", 60)
        gallery, facts = fit_and_judge(films, 5)
    model = random_model(films.prompts, 5, 32)
    return Material(films, gallery, model, model, facts)


@pytest.fixture
def figures(material: Material, monkeypatch: pytest.MonkeyPatch) -> Callable[[np.ndarray, np.ndarray], dict[str, Any]]:
    def measured(for_canaries: np.ndarray, for_controls: np.ndarray) -> dict[str, Any]:
        drawn = iter([for_canaries, for_controls])
        monkeypatch.setattr(measures, "generate_images", lambda *_args, **_rest: next(drawn))
        return measure(material.base, material, REGIME, 0)

    return measured


def test_perfect_copies_are_all_counted_and_real_films_score_what_real_films_score(material: Material, figures: Any) -> None:
    films = material.films
    found = figures(films.images_NHW[np.repeat(films.select("canary"), 4)], films.images_NHW[films.select("control", "evaluation")])
    assert found["copies"] == 1
    assert found["copies_by_canary"] == [1.0] * CANARIES
    assert found["extracted"] == CANARIES
    assert found["similarity"] == pytest.approx(1, abs=1e-5)
    assert found["tile_distance"] == 0
    assert found["fid"] == pytest.approx(material.facts["fid_floor"])
    assert found["control_copies"] == pytest.approx(material.facts["gallery"]["false_copy_rate"]["value"])
    assert found["agreement"] == pytest.approx(material.facts["gallery"]["reader_agreement"]["value"])
    assert 0 <= found["score_auc"] <= 1


def test_share_of_copies_is_told_canary_by_canary(material: Material, figures: Any) -> None:
    films = material.films
    canaries = films.images_NHW[np.repeat(films.select("canary"), 4)].copy()
    canaries[:3] = np.random.default_rng(0).integers(0, 256, (3, 32, 32))  # three of the first canary's four
    found = figures(canaries, films.images_NHW[films.select("control", "evaluation")])
    assert found["copies_by_canary"] == [0.25, 1.0, 1.0, 1.0]
    assert found["copies"] == pytest.approx(13 / 16)
    assert found["extracted"] == CANARIES - 1


def test_images_that_are_all_alike_are_far_from_real_films(material: Material, figures: Any) -> None:
    films = material.films
    controls = films.select("control", "evaluation")
    grey = np.full((len(controls), 32, 32), 128, dtype=np.uint8)
    found = figures(films.images_NHW[np.repeat(films.select("canary"), 4)], grey)
    assert found["fid"] > 3 * material.facts["fid_floor"]
    assert found["control_copies"] == 0
