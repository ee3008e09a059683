"""Galleries: built from training films alone, the same after a restart, verified when read."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
import pytest
import torch

from shared.catalog import Catalog, new_id
from shared.errors import ConflictError, JobCancelledError
from shared.imaging.films import FilmTable
from shared.imaging.phantom import draw, make_cohort
from shared.imaging.prompts import compose_impression
from shared.memorization import galleries
from shared.memorization.galleries import FilmSet, build_gallery, fit_gallery, gallery_of, load_gallery, read_films, site_features
from tests.fixtures.judging import EMBEDDER_STEPS, READER_STEPS, ignore

if TYPE_CHECKING:
    from shared.memorization.galleries import Gallery
    from tests.fixtures.judging import JudgingHome
    from tests.fixtures.models import StockedHome


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(galleries, "EMBEDDER_STEPS", 3)
    monkeypatch.setattr(galleries, "READER_STEPS", 3)


def test_gallery_holds_each_training_film_once(judging_home: JudgingHome, judging_catalog: Catalog) -> None:
    gallery = load_gallery(judging_home.gallery, judging_catalog)
    table = FilmTable(judging_catalog.fetch(judging_home.stocked.dataset))
    assert gallery.records == table.select("train", "canary")
    assert gallery.patients == [table.facts[record].patient for record in gallery.records]
    assert len(gallery.codes.copy_ND) == len(gallery.codes.identity_ND) == len(gallery.records)
    assert np.array_equal(gallery.codes.images_NHW, table.images(gallery.records))


def test_loaded_gallery_embeds_as_the_one_that_was_saved(judging_home: JudgingHome, judging_catalog: Catalog) -> None:
    gallery = load_gallery(judging_home.gallery, judging_catalog)
    copy_ND, identity_ND = gallery.embedder.embed(gallery.codes.images_NHW)
    assert torch.allclose(copy_ND, gallery.codes.copy_ND, atol=1e-5)
    assert torch.allclose(identity_ND, gallery.codes.identity_ND, atol=1e-5)
    assert ("view", "AP") in gallery.reader.items
    assert not gallery.reader.training


def test_manifest_tells_thresholds_and_what_they_do(judging_home: JudgingHome) -> None:
    manifest = judging_home.gallery
    assert set(manifest.thresholds) == {"copy", "tile_distance", "same_patient"}
    assert manifest.metrics["copy_similarity"]["value"] == manifest.thresholds["copy"]  # type: ignore[index, call-overload]
    for name in ("false_copy_rate", "false_same_patient_rate", "augmented_copies_similar", "augmented_copies_found", "reader_agreement"):
        estimate = manifest.metrics[name]
        assert isinstance(estimate, dict)
        assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1  # type: ignore[operator]
    assert manifest.lineage["dataset_digest"] == judging_home.stocked.dataset.digest


def test_newest_gallery_of_a_data_set_is_found(judging_home: JudgingHome, judging_catalog: Catalog) -> None:
    found = gallery_of(judging_catalog, judging_home.stocked.dataset.id)
    assert found is not None
    assert found.id == judging_home.gallery.id
    assert gallery_of(judging_catalog, new_id("dataset")) is None


@pytest.mark.usefixtures("brief")
def test_second_run_after_a_kill_answers_what_the_first_committed(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    gallery_id = new_id("gallery")

    def build() -> str:
        return build_gallery(
            stocked_home.dataset, gallery_id, 0, catalog=stocked_catalog, settings=stocked_home.settings, report=ignore
        ).digest

    with mock.patch.object(Catalog, "set_alias", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        build()
    assert gallery_of(stocked_catalog, stocked_home.dataset.id) is None
    with mock.patch.object(galleries, "fit_gallery", side_effect=AssertionError("trained again")):
        digest = build()
    found = gallery_of(stocked_catalog, stocked_home.dataset.id)
    assert found is not None
    assert (found.id, found.digest) == (gallery_id, digest)


@pytest.mark.usefixtures("brief")
def test_same_seed_gives_the_same_codes(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    built = [
        build_gallery(stocked_home.dataset, new_id("gallery"), 5, catalog=stocked_catalog, settings=stocked_home.settings, report=ignore)
        for _ in range(2)
    ]
    assert [file.sha256 for file in built[0].files] == [file.sha256 for file in built[1].files]
    assert built[0].thresholds == built[1].thresholds


@pytest.mark.usefixtures("brief")
def test_cancelled_building_leaves_nothing(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    def stop(step: int, _total: int, _message: str) -> None:
        if step > 2:
            raise JobCancelledError

    with pytest.raises(JobCancelledError):
        build_gallery(stocked_home.dataset, new_id("gallery"), 0, catalog=stocked_catalog, settings=stocked_home.settings, report=stop)
    assert stocked_catalog.list("gallery", 5)[0] == []
    assert list((stocked_home.folder / "detections").rglob("*.safetensors")) == []


@pytest.mark.usefixtures("brief")
def test_data_set_without_control_films_is_refused(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    with (
        mock.patch.object(FilmTable, "select", lambda _table, *splits, fold="": [] if fold else [0, 1]),  # noqa: ARG005
        pytest.raises(ConflictError, match="control_fraction"),
    ):
        build_gallery(stocked_home.dataset, new_id("gallery"), 0, catalog=stocked_catalog, settings=stocked_home.settings, report=ignore)


def phantom_films(patients: int, seed: int) -> FilmSet:
    films = [film for film in make_cohort(patients, seed) if film.view != "lateral"]
    generator = np.random.default_rng(seed)
    prompts = [
        compose_impression(
            view=film.view,
            sex=film.patient.sex,
            age=film.patient.age,
            findings=film.findings,
            normal=not film.findings,
            exam=film.accession,
            rng=generator,
        )
        for film in films
    ]
    names = [f"{seed}-{film.patient.id}" for film in films]
    return FilmSet(list(range(len(films))), names, prompts, np.stack([draw(film, 64) for film in films]))


@pytest.mark.slow
def test_gallery_of_phantoms_recognises_copies_and_reads_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(galleries, "READER_STEPS", 300)
    monkeypatch.setattr(galleries, "EMBEDDER_STEPS", 120)
    progress: Counter[str] = Counter()
    train, calibration, evaluation = (phantom_films(patients, seed) for patients, seed in ((110, 1), (90, 2), (90, 3)))
    gallery, metrics = fit_gallery(
        "ds_1", "gal_1", train, calibration, evaluation, 0, lambda _step, _total, message: progress.update([message])
    )
    assert metrics["augmented_copies_similar"]["value"] >= 0.95
    assert metrics["false_copy_rate"]["low"] <= 0.01
    assert metrics["reader_agreement"]["value"] >= 0.75
    assert gallery.thresholds.copy > 0.5
    assert progress == {"training the site embedder": 120, "training the finding reader": 300}


def test_films_are_read_in_the_order_asked_for(judging_home: JudgingHome, judging_catalog: Catalog) -> None:
    table = FilmTable(judging_catalog.fetch(judging_home.stocked.dataset))
    films = read_films(table, [4, 1])
    assert films.records == [4, 1]
    assert films.prompts == [table.facts[4].prompt, table.facts[1].prompt]
    assert np.array_equal(films.images_NHW[1], table.images([1])[0])


def test_fixture_was_trained_for_the_steps_that_it_says() -> None:
    assert EMBEDDER_STEPS + READER_STEPS < galleries.BUILDING_STEPS


def test_features_of_the_gallerys_own_films_are_its_codes(gallery: Gallery) -> None:
    features = site_features(gallery, gallery.codes.images_NHW)
    assert features.dtype == np.float64
    assert features == pytest.approx(gallery.codes.copy_ND.numpy(), abs=1e-5)
