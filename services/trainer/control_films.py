"""Control patients stay out: what a model's line never learnt from, so that false-positive rates can be measured on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shared.catalog import Catalog, DatasetManifest, ModelManifest
from shared.errors import InvalidRequestError
from shared.imaging.films import FilmTable
from shared.imaging.splits import Split


class ControlPatientsError(InvalidRequestError):
    """A data set would teach a model films that are controls of a model it goes on from."""


def refuse_controls(dataset: DatasetManifest, base: ModelManifest, catalog: Catalog) -> None:
    """Refuse a data set with training films of control patients of the base's data set, or of any that its line was trained on.

    A patient is a control's when a film has the same pixels, or when the same source gives it the same name. The error tells
    how many there are and never who.
    """
    for dataset_id in _learnt_from(base, catalog):
        if dataset_id != dataset.id:  # a data set's own splits are parted by patient
            _refuse(dataset, catalog.get("dataset", dataset_id), catalog)


def _refuse(dataset: DatasetManifest, earlier: DatasetManifest, catalog: Catalog) -> None:
    controls = list(_films(earlier, catalog, "control"))
    pictures = {picture for _, picture in controls}
    patients = {patient for patient, _ in controls} if _same_source(dataset, earlier) else set()
    learnt = _films(dataset, catalog, "train", "canary")
    found = {patient for patient, picture in learnt if patient in patients or picture in pictures}
    if found:
        raise ControlPatientsError(
            f"{len(found)} patients whose films {dataset.id} trains on are control patients of {earlier.id}, on which a model of the "
            f"base's line was trained; register them with the same source and seed, without these patients, or take another base.",
            field="dataset",
        )


def _films(dataset: DatasetManifest, catalog: Catalog, *splits: Split) -> Iterator[tuple[str, str]]:
    """Patient and digest of every film of these splits."""
    table = FilmTable(catalog.fetch(dataset))
    records = table.select(*splits)
    return zip(table.column("patient", records), table.column("sha256", records), strict=True)


def _learnt_from(model: ModelManifest, catalog: Catalog) -> Iterator[str]:
    """The data sets of a model and of those that it goes back to; an imported model names none."""
    while True:
        if model.dataset is not None:
            yield model.dataset
        if model.base is None:
            return
        model = catalog.get("model", model.base)


def _same_source(one: DatasetManifest, other: DatasetManifest) -> bool:
    """Whether equal patient names mean the same patient: one table, one folder, or phantoms of one seed."""
    return bool(one.lineage.get("table_sha256") and one.lineage.get("table_sha256") == other.lineage.get("table_sha256")) or (
        _origin(one) is not None and _origin(one) == _origin(other)
    )


def _origin(dataset: DatasetManifest) -> tuple[Any, ...] | None:
    spec: Any = dataset.lineage.get("spec")
    source = spec.get("source") if isinstance(spec, dict) else None
    if not isinstance(source, dict):
        return None
    return (source["format"], spec.get("seed")) if source.get("format") == "phantom" else (source.get("format"), source.get("uri"))
