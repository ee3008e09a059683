"""Matching: the whole gallery is searched, copies need both conditions, a recognised patient is never cut off."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from shared.memorization import matching
from shared.memorization.matching import Neighbour, Verdict, fit_to_gallery, gravest, match, shown
from shared.memorization.site_embedder import augmented
from shared.memorization.thresholds import Thresholds
from shared.memorization.tile_distance import tile_max_distance

if TYPE_CHECKING:
    from shared.memorization.galleries import Gallery


def neighbour(record: int, similarity: float, verdict: Verdict, identity: float = 0.0) -> Neighbour:
    return Neighbour(record, f"p{record}", similarity, identity, 0.5, verdict)


def with_thresholds(gallery: Gallery, *, copy: float = 2.0, tile: float = -1.0, same: float = 2.0) -> Gallery:
    """The gallery with thresholds of the test's own; without any, nothing reaches them."""
    return replace(gallery, thresholds=Thresholds(copy=copy, tile_distance=tile, same_patient=same))


def test_every_training_film_is_nearest_to_itself(gallery: Gallery) -> None:
    for row, neighbours in enumerate(match(gallery, gallery.codes.images_NHW, 1)):
        assert neighbours[0].record == gallery.records[row]
        assert neighbours[0].verdict == "copy"


def test_copy_needs_similarity_and_tile_distance(gallery: Gallery) -> None:
    image = gallery.codes.images_NHW[:1]
    assert match(with_thresholds(gallery, copy=0.9, tile=0.01), image, 1)[0][0].verdict == "copy"
    assert match(with_thresholds(gallery, copy=0.9, tile=-0.01), image, 1)[0][0].verdict == "none"
    assert match(with_thresholds(gallery, copy=1.1, tile=0.01), image, 1)[0][0].verdict == "none"
    assert match(with_thresholds(gallery, copy=1.1, tile=0.01, same=0.9), image, 1)[0][0].verdict == "same_patient"


def test_neighbours_carry_the_figures_of_their_own_pair(gallery: Gallery) -> None:
    noise = torch.Generator().manual_seed(3)
    image = augmented(torch.from_numpy(gallery.codes.images_NHW[4:5]).float() / 255, noise).mul(255).round().to(torch.uint8)
    copy, identity = gallery.embedder.embed(image.numpy())
    distance = tile_max_distance(image, torch.from_numpy(gallery.codes.images_NHW))[0]
    for found in match(gallery, image.numpy(), 6)[0]:
        row = gallery.records.index(found.record)
        assert found.patient == gallery.patients[row]
        assert found.similarity == pytest.approx(float(copy[0] @ gallery.codes.copy_ND[row]), abs=1e-5)
        assert found.identity_similarity == pytest.approx(float(identity[0] @ gallery.codes.identity_ND[row]), abs=1e-5)
        assert found.tile_distance == pytest.approx(float(distance[row]), abs=1e-4)


def test_verdict_does_not_depend_on_what_else_is_asked(gallery: Gallery) -> None:
    images = gallery.codes.images_NHW[:5]
    together = match(gallery, images, 3)
    for row in range(5):
        alone = match(gallery, images[row : row + 1], 3)[0]
        assert [n.record for n in alone] == [n.record for n in together[row]]
        assert [n.similarity for n in alone] == pytest.approx([n.similarity for n in together[row]], abs=1e-5)


def test_copy_comes_before_a_film_that_is_more_similar() -> None:
    ranked = shown([neighbour(1, 0.99, "none"), neighbour(2, 0.9, "copy"), neighbour(3, 0.95, "same_patient")], 3)
    assert [n.record for n in ranked] == [2, 1, 3]


def test_equally_similar_films_come_by_record() -> None:
    assert [n.record for n in shown([neighbour(9, 0.5, "none"), neighbour(2, 0.5, "none")], 2)] == [2, 9]


def test_recognised_patient_beyond_the_nearest_takes_the_last_place() -> None:
    far = [neighbour(4, 0.2, "same_patient", 0.9), neighbour(5, 0.1, "same_patient", 0.95)]
    near = [neighbour(1, 0.9, "none"), neighbour(2, 0.8, "none"), neighbour(3, 0.7, "none")]
    assert [n.record for n in shown([*near, *far], 2)] == [1, 5]
    assert [n.record for n in shown([neighbour(0, 0.95, "copy"), *near, *far], 2)] == [0, 1]


def test_film_that_only_the_identity_head_finds_is_looked_at(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "CANDIDATES", 1)
    image = gallery.codes.images_NHW[:1]
    strange = torch.roll(gallery.codes.identity_ND, 7, 0)  # the identity head now points at another film
    other = replace(gallery, codes=replace(gallery.codes, identity_ND=strange))
    found = match(with_thresholds(other, same=0.9), image, 1)[0][0]
    assert (found.record, found.verdict) == (gallery.records[7], "same_patient")


def test_gravest_verdict_is_that_of_the_image() -> None:
    assert gravest([neighbour(1, 0.9, "none"), neighbour(2, 0.1, "same_patient")]) == "same_patient"
    assert gravest([neighbour(1, 0.9, "same_patient"), neighbour(2, 0.1, "copy")]) == "copy"
    assert gravest([neighbour(1, 0.9, "none")]) == "none"


def test_picture_of_another_shape_is_cropped_at_the_centre(gallery: Gallery) -> None:
    size = gallery.codes.images_NHW.shape[1]
    wide = np.zeros((2 * size, 4 * size), dtype=np.uint8)
    wide[:, size : 3 * size] = 200
    fitted = fit_to_gallery(wide, gallery)
    assert fitted.shape == (size, size)
    assert fitted.min() > 180


def test_picture_of_the_gallerys_size_is_left_as_it_is(gallery: Gallery) -> None:
    image = gallery.codes.images_NHW[0]
    assert fit_to_gallery(image, gallery) is image
