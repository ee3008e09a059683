"""Thresholds of similarity: from strangers alone, at the stated rates, measured on films that did not set them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from shared.memorization.site_embedder import SiteEmbedder
from shared.memorization.thresholds import (
    Codes,
    Strangers,
    Thresholds,
    augmented_copy_recall,
    copy_similarity_interval,
    false_positive_rates,
    fit_thresholds,
    nearest_strangers,
)
from shared.memorization.tile_distance import tile_max_distance

if TYPE_CHECKING:
    from shared.memorization.galleries import Gallery


def strangers(count: int, seed: int = 0) -> Strangers:
    generator = np.random.default_rng(seed)
    return Strangers(generator.normal(0.5, 0.1, count), generator.normal(0.3, 0.05, count), generator.normal(0.4, 0.1, count))


def test_strangers_reach_each_threshold_at_its_rate() -> None:
    known = strangers(999)
    thresholds = fit_thresholds(known)
    assert (known.similarity_M >= thresholds.copy).sum() == 9
    assert (known.tile_M <= thresholds.tile_distance).sum() == 49
    assert (known.identity_M >= thresholds.same_patient).sum() == 9


def test_other_strangers_are_called_copies_no_more_often_than_stated() -> None:
    measured = false_positive_rates(strangers(20_000, seed=1), fit_thresholds(strangers(999)))
    assert measured["false_copy_rate"]["value"] <= 0.01
    assert measured["false_same_patient_rate"]["value"] == pytest.approx(0.01, abs=0.005)
    assert measured["false_copy_rate"]["n"] == 20_000


def test_few_strangers_are_never_called_copies() -> None:
    known = strangers(5)
    thresholds = fit_thresholds(known)
    assert thresholds.copy > known.similarity_M.max()
    assert thresholds.tile_distance < known.tile_M.min()


def test_interval_of_the_copy_threshold_holds_the_threshold() -> None:
    known = strangers(300)
    measured = copy_similarity_interval(known, [f"p{i // 2}" for i in range(300)])
    assert measured["value"] == fit_thresholds(known).copy
    assert measured["low"] <= measured["value"] <= measured["high"] + 1e-9


def test_tile_distance_is_that_to_the_most_similar_film() -> None:
    torch.manual_seed(0)
    embedder = SiteEmbedder().eval()
    generator = np.random.default_rng(0)
    films, queries = (generator.integers(0, 255, (count, 32, 32), dtype=np.uint8) for count in (9, 4))
    codes = Codes(films, *embedder.embed(films))
    measured = nearest_strangers(embedder, codes, queries)
    similarity = embedder.embed(queries)[0] @ codes.copy_ND.T
    distance = tile_max_distance(torch.from_numpy(queries), torch.from_numpy(films))
    assert measured.similarity_M == pytest.approx(similarity.max(1).values.numpy(), abs=1e-5)
    assert measured.tile_M == pytest.approx(distance[torch.arange(4), similarity.argmax(1)].numpy(), abs=1e-4)
    assert measured.identity_M == pytest.approx((embedder.embed(queries)[1] @ codes.identity_ND.T).max(1).values.numpy(), abs=1e-5)


def test_augmented_copies_are_found_by_loose_thresholds_and_not_by_strict_ones(gallery: Gallery) -> None:
    films = gallery.codes.images_NHW[:8]
    loose = augmented_copy_recall(gallery.embedder, films, Thresholds(copy=-1, tile_distance=1, same_patient=1), seed=0)
    strict = augmented_copy_recall(gallery.embedder, films, Thresholds(copy=-1, tile_distance=0, same_patient=1), seed=0)
    assert (loose["augmented_copies_found"]["value"], loose["augmented_copies_found"]["n"]) == (1.0, 8)
    assert (strict["augmented_copies_similar"]["value"], strict["augmented_copies_found"]["value"]) == (1.0, 0.0)
