"""Control patients of a model's line are never trained on."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pyarrow as pa
import pytest

from services.trainer import training_jobs
from services.trainer.control_films import ControlPatientsError, refuse_controls
from shared.catalog import DatasetManifest, ModelManifest, new_id
from shared.errors import NotFoundError
from shared.imaging.films import SCHEMA, Film, FilmTable, FilmWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shared.catalog import Catalog
    from shared.jobs.context import JobContext
    from tests.fixtures.models import StockedHome


@pytest.fixture
def variant(stocked_home: StockedHome, stocked_catalog: Catalog, tmp_path: Path) -> Callable[..., DatasetManifest]:
    """Commits the stocked data set again with its films changed; `lineage` tells where they come from."""

    def commit(change: Callable[[Film], Film], **lineage: Any) -> DatasetManifest:
        table = FilmTable(stocked_catalog.fetch(stocked_home.dataset))
        (folder := tmp_path / new_id("dataset")).mkdir()
        rows = [asdict(change(table.film(record))) for record in range(len(table))]
        with FilmWriter(folder) as writer:
            writer.write(pa.Table.from_pylist(rows, schema=SCHEMA))
        told = stocked_home.dataset.model_dump() | {"id": new_id("dataset"), "files": [], "digest": "", "lineage": lineage}
        return stocked_catalog.commit(DatasetManifest.model_validate(told), folder)

    return commit


def swapped(film: Film) -> Film:
    """Controls become training films and the other way round."""
    return replace(film, split="train" if film.split == "control" else "control", fold="evaluation" if film.split != "control" else "")


def renamed(film: Film) -> Film:
    return replace(film, patient=f"other-{film.patient}")


def repainted(film: Film) -> Film:
    """Other pixels: another size or encoding of the same film."""
    return replace(film, sha256=f"{film.record:064x}")


def controls(home: StockedHome) -> int:
    return home.dataset.patients["control"]


def test_a_models_own_data_set_is_taken(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    refuse_controls(stocked_home.dataset, stocked_home.model, stocked_catalog)


def test_controls_of_the_same_source_are_refused_by_count_without_a_name(
    stocked_home: StockedHome, stocked_catalog: Catalog, variant: Callable[..., DatasetManifest]
) -> None:
    other = variant(lambda film: repainted(swapped(film)), **stocked_home.dataset.lineage)
    with pytest.raises(ControlPatientsError, match=f"^{controls(stocked_home)} patients") as caught:
        refuse_controls(other, stocked_home.model, stocked_catalog)
    assert caught.value.field == "dataset"
    patients = {fact.patient for fact in FilmTable(stocked_catalog.fetch(other)).facts}
    assert not any(patient in str(caught.value) for patient in patients)


def test_pictures_of_controls_are_refused_whatever_they_are_called(
    stocked_home: StockedHome, stocked_catalog: Catalog, variant: Callable[..., DatasetManifest]
) -> None:
    other = variant(lambda film: renamed(swapped(film)))
    with pytest.raises(ControlPatientsError, match=f"^{controls(stocked_home)} patients"):
        refuse_controls(other, stocked_home.model, stocked_catalog)


def test_equal_names_in_other_sources_are_other_patients(
    stocked_home: StockedHome, stocked_catalog: Catalog, variant: Callable[..., DatasetManifest]
) -> None:
    other = variant(lambda film: repainted(swapped(film)), spec={"source": {"format": "chexpert", "uri": "file:///a"}, "seed": 0})
    refuse_controls(other, stocked_home.model, stocked_catalog)
    phantom = stocked_home.dataset.lineage["spec"] | {"seed": 1}  # type: ignore[operator]
    refuse_controls(variant(lambda film: repainted(swapped(film)), spec=phantom), stocked_home.model, stocked_catalog)


def test_controls_of_an_earlier_model_of_the_line_are_refused_too(
    stocked_home: StockedHome, stocked_catalog: Catalog, variant: Callable[..., DatasetManifest]
) -> None:
    second = variant(lambda film: repainted(renamed(film)))
    blank = {"files": [], "digest": "", "dataset": second.id, "base": stocked_home.model.id, "id": new_id("model")}
    model = stocked_catalog.commit(ModelManifest.model_validate(stocked_home.model.model_dump() | blank))
    refuse_controls(second, model, stocked_catalog)
    with pytest.raises(ControlPatientsError, match=f"control patients of {stocked_home.dataset.id}"):
        refuse_controls(variant(swapped), model, stocked_catalog)


def test_line_without_a_data_set_has_no_controls(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    imported = stocked_home.model.model_copy(update={"dataset": None})
    refuse_controls(stocked_home.dataset, imported, stocked_catalog)


def test_data_set_that_is_gone_is_not_taken_for_one_without_controls(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    orphan = stocked_home.model.model_copy(update={"dataset": new_id("dataset")})
    with pytest.raises(NotFoundError):
        refuse_controls(stocked_home.dataset, orphan, stocked_catalog)


def test_training_job_on_controls_of_its_base_fails_before_it_learns(
    context: Callable[..., JobContext], stocked_home: StockedHome, variant: Callable[..., DatasetManifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_jobs, "train_denoiser", mock.Mock(side_effect=AssertionError("learnt")))
    told = {"name": "a", "dataset": variant(swapped).id, "base": stocked_home.model.id, "steps": 1}
    with pytest.raises(ControlPatientsError):
        training_jobs.run_training(context("training", new_id("job"), told))
