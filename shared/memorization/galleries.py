"""Galleries: what is kept of a data set's training films, to recognise them and to read what an image shows.

The embedder and the reader learn from the training films alone, each film once; thresholds come from control films.
N films, H height, W width, D code features.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from shared.catalog import Catalog, DatasetManifest, GalleryManifest
from shared.catalog.scratch import scratch_folder
from shared.errors import ConflictError, NotFoundError
from shared.imaging.films import FilmTable
from shared.memorization.agreements import agreements, asked_items
from shared.memorization.finding_reader import STEPS as READER_STEPS
from shared.memorization.finding_reader import FindingReader, train_finding_reader
from shared.memorization.site_embedder import STEPS as EMBEDDER_STEPS
from shared.memorization.site_embedder import SiteEmbedder, train_site_embedder
from shared.memorization.statistics import Estimate, Group, mean_interval
from shared.memorization.thresholds import (
    Codes,
    Images,
    Thresholds,
    augmented_copy_recall,
    copy_similarity_interval,
    false_positive_rates,
    fit_thresholds,
    nearest_strangers,
)
from shared.settings import Settings
from shared.telemetry import lethe_version

EMBEDDER: Final = "site"
BUILDING_STEPS: Final = EMBEDDER_STEPS + READER_STEPS

Report = Callable[[int, int, str], None]
"""Told how far the work is: step, of how many, doing what. May raise to stop."""


@dataclass(frozen=True)
class FilmSet:
    """Some films of a data set."""

    records: list[int]
    patients: list[str]
    prompts: list[str]
    images_NHW: Images


@dataclass(frozen=True, eq=False)
class Gallery:
    """A gallery in memory, ready to be searched; equal to itself alone."""

    id: str
    dataset: str
    records: list[int]
    patients: list[str]
    codes: Codes
    embedder: SiteEmbedder
    reader: FindingReader
    thresholds: Thresholds


def alias_of(dataset_id: str) -> str:
    """The alias under which the newest gallery of a data set is found."""
    return dataset_id.replace("_", "-")


def gallery_of(catalog: Catalog, dataset_id: str) -> GalleryManifest | None:
    """The newest gallery of a data set; None when there is none yet."""
    try:
        gallery_id = catalog.get_alias("gallery", alias_of(dataset_id))
    except NotFoundError:
        return None
    return catalog.get("gallery", gallery_id)


def build_gallery(
    dataset: DatasetManifest, gallery_id: str, seed: int, *, catalog: Catalog, settings: Settings, report: Report
) -> GalleryManifest:
    """Train, embed, set thresholds, measure, commit; a second run under the same id answers what the first one committed."""
    try:
        manifest = catalog.get("gallery", gallery_id)
    except NotFoundError:
        manifest = _build_anew(dataset, gallery_id, seed, catalog, settings, report)
    catalog.set_alias("gallery", alias_of(dataset.id), manifest.id)
    return manifest


def _build_anew(
    dataset: DatasetManifest, gallery_id: str, seed: int, catalog: Catalog, settings: Settings, report: Report
) -> GalleryManifest:
    report(0, BUILDING_STEPS, "reading the films")
    table = FilmTable(catalog.fetch(dataset))
    train = read_films(table, table.select("train", "canary"))
    calibration = read_films(table, table.select("control", fold="calibration"))
    evaluation = read_films(table, table.select("control", fold="evaluation"))
    if not (train.records and calibration.records and evaluation.records):
        raise ConflictError(
            f"The data set {dataset.id} lacks training films or control films; register it with a control_fraction above 0, "
            "because thresholds come from control films."
        )
    gallery, metrics = fit_gallery(dataset.id, gallery_id, train, calibration, evaluation, seed, report)
    manifest = GalleryManifest(
        id=gallery_id,
        name=dataset.name,
        dataset=dataset.id,
        embedder=EMBEDDER,
        thresholds=asdict(gallery.thresholds),
        metrics=metrics,
        lineage={"dataset": dataset.id, "dataset_digest": dataset.digest, "seed": seed, "code_version": lethe_version()},
    )
    with scratch_folder(settings, gallery_id) as folder:
        save_gallery(gallery, folder)
        report(BUILDING_STEPS, BUILDING_STEPS, "storing the gallery")
        return catalog.commit(manifest, folder)


def read_films(table: FilmTable, records: Sequence[int]) -> FilmSet:
    """Films with their pictures."""
    return FilmSet(list(records), table.column("patient", records), table.column("prompt", records), table.images(records))


def fit_gallery(
    dataset_id: str, gallery_id: str, train: FilmSet, calibration: FilmSet, evaluation: FilmSet, seed: int, report: Report
) -> tuple[Gallery, dict[str, Any]]:
    """The gallery of the training films, and what it does on the evaluation fold."""

    def on_step(before: int, message: str) -> Callable[[int, torch.Tensor], None]:
        return lambda step, _loss: report(before + step + 1, BUILDING_STEPS, message)

    embedder = train_site_embedder(train.images_NHW, train.patients, seed, on_step(0, "training the site embedder"), EMBEDDER_STEPS)
    shown = [asked_items(prompt) for prompt in train.prompts]
    reader = train_finding_reader(train.images_NHW, shown, seed, on_step(EMBEDDER_STEPS, "training the finding reader"), READER_STEPS)
    codes = Codes(train.images_NHW, *embedder.embed(train.images_NHW))
    strangers = nearest_strangers(embedder, codes, calibration.images_NHW)
    thresholds = fit_thresholds(strangers)
    gallery = Gallery(gallery_id, dataset_id, train.records, train.patients, codes, embedder, reader, thresholds)
    metrics: dict[str, Any] = {
        "films": len(train.records),
        "patients": len(set(train.patients)),
        "copy_similarity": copy_similarity_interval(strangers, calibration.patients),
        **false_positive_rates(nearest_strangers(embedder, codes, evaluation.images_NHW), thresholds),
        **augmented_copy_recall(embedder, evaluation.images_NHW, thresholds, seed),
        "reader_agreement": reader_agreement(reader, evaluation),
    }
    return gallery, metrics


def reader_agreement(reader: FindingReader, films: FilmSet) -> Estimate:
    """The mean agreement between real films and their own prompts: what a perfect generator could reach."""
    agreed = agreements(reader, films.prompts, films.images_NHW)
    judged = [(found.value, patient) for found, patient in zip(agreed, films.patients, strict=True) if found.value is not None]
    if not judged:
        raise ConflictError("No control film's prompt names a view or a finding; the finding reader cannot be judged.")
    return mean_interval(Group([value for value, _ in judged], [patient for _, patient in judged]))


def site_features(gallery: Gallery, images_NHW: Images) -> NDArray[np.float64]:
    """What distances between sets of images are taken of: the codes of the site embedder's copy head, N×D."""
    return np.asarray(gallery.embedder.embed(images_NHW)[0].double().numpy())


def save_gallery(gallery: Gallery, folder: Path) -> None:
    """Weights and codes as safetensors, the rest as JSON; pictures stay in the data set."""
    save_file(gallery.embedder.state_dict(), folder / "embedder.safetensors")
    save_file(gallery.reader.state_dict(), folder / "reader.safetensors")
    codes = {"copy": gallery.codes.copy_ND.contiguous(), "identity": gallery.codes.identity_ND.contiguous()}
    save_file(codes, folder / "codes.safetensors")
    facts = {"records": gallery.records, "patients": gallery.patients, "items": [list(item) for item in gallery.reader.items]}
    (folder / "films.json").write_text(json.dumps(facts), encoding="utf-8")


def load_gallery(manifest: GalleryManifest, catalog: Catalog) -> Gallery:
    """A committed gallery with the pictures of its data set, every byte verified."""
    table = FilmTable(catalog.fetch(catalog.get("dataset", manifest.dataset)))
    return read_gallery(catalog.fetch(manifest), manifest.id, manifest.dataset, table.images, Thresholds(**manifest.thresholds))


def read_gallery(
    folder: Path, gallery_id: str, dataset_id: str, pictures: Callable[[list[int]], Images], thresholds: Thresholds
) -> Gallery:
    """What `save_gallery` wrote, with the pictures of its records and its thresholds."""
    facts = json.loads((folder / "films.json").read_text(encoding="utf-8"))
    embedder, reader = SiteEmbedder(), FindingReader([tuple(item) for item in facts["items"]])
    embedder.load_state_dict(load_file(folder / "embedder.safetensors"))
    reader.load_state_dict(load_file(folder / "reader.safetensors"))
    codes = load_file(folder / "codes.safetensors")
    return Gallery(
        id=gallery_id,
        dataset=dataset_id,
        records=facts["records"],
        patients=facts["patients"],
        codes=Codes(pictures(facts["records"]), codes["copy"], codes["identity"]),
        embedder=embedder.eval(),
        reader=reader.eval(),
        thresholds=thresholds,
    )
