"""Registering a data set: reads a source, judges its films, splits them by patient and commits them to the catalog.

Three passes, each of which holds little of the set in memory and begins where a killed attempt stopped: rows with their prompts go
to disk; pictures are decoded in parallel and go there too; films that the gates keep are put together to the parts that are committed.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.trainer.dataset_spec import DatasetSpec
from services.trainer.dataset_summary import histograms, split_counts, warnings, write_findings
from services.trainer.film_pictures import FilmPictures, rows_per_spool, spool_pictures
from services.trainer.film_rows import NO_AGE, FilmRows, spool_rows
from services.trainer.gates import Examination, anonymity_table, examine_anonymity, examine_pictures, examine_rows
from services.trainer.placement import FilmPlaces, place_kept, prompted
from services.trainer.source_opening import open_source
from shared.catalog import Catalog, DatasetManifest, DatasetPart
from shared.diffusion.prompt_encoder import PromptEncoder, open_prompt_encoder
from shared.errors import NotFoundError
from shared.imaging.clauses import LABELS
from shared.imaging.contact_sheet import CONTACT_SHEET_NAME, contact_sheet, sample_positions, tile
from shared.imaging.films import MAX_FILM_PIXELS, SCHEMA, FilmWriter, rows_per_part
from shared.imaging.png import decode_png, encode_png
from shared.imaging.sources import Source
from shared.imaging.splits import FOLDS, SPLITS
from shared.jobs.context import JobInterruptedError
from shared.settings import Settings
from shared.telemetry import lethe_version

ABANDONED_SECONDS: Final = 7 * 24 * 3600.0  # nobody goes on with a registration that was left this long ago
_PLAN: Final = "plan.json"


class Report(Protocol):
    """Told how far the job is: step, of how many, doing what, and figures. May raise to stop."""

    def __call__(self, step: int, total: int, message: str, /, **values: float) -> None:
        """Take note."""


def register(spec: DatasetSpec, *, dataset_id: str, catalog: Catalog, settings: Settings, report: Report) -> DatasetManifest:
    """Register a data set under an id that was given before; nothing is committed unless all of it is sound.

    A second run under the same id, after a restart, goes on with what the first one finished, or returns what it committed.
    """
    try:
        return catalog.get("dataset", dataset_id)
    except NotFoundError:
        pass
    folder = settings.home.resolve() / "registrations" / dataset_id
    _sweep(folder.parent)
    try:
        manifest = _register(spec, dataset_id, folder, catalog, settings, report)
    except JobInterruptedError:
        raise  # another attempt goes on
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    return manifest


# ---------------------------------------------------------------- the steps


def _register(spec: DatasetSpec, dataset_id: str, folder: Path, catalog: Catalog, settings: Settings, report: Report) -> DatasetManifest:
    encoder = open_prompt_encoder(catalog, spec.prompt.encoder) if spec.prompt.encoder is not None else None
    source = open_source(spec, settings, report)
    tables = _prepare(spec, source, folder)
    rows = _rows(spec, source, folder, encoder, report)
    limit = None if encoder is None else (spec.prompt.max_tokens or encoder.limit)
    examination = examine_rows(rows.columns(), spec, token_limit=limit)
    total = int(examination.kept.sum())

    def on_picture(done: int, per_second: float) -> None:
        report(done, total, "reading films", images_per_second=per_second)

    pictures = spool_pictures(rows, examination.kept.copy(), spec.image_size, folder, on_picture)
    admitted = examination.kept.copy()
    examine_pictures(examination, pictures, spec, lambda: report(total, total, "looking for copies"))
    examine_anonymity(examination, spec)
    places = place_kept(examination, rows, spec)
    report(total, total, "storing the data set")
    return catalog.commit(*_assembled(spec, dataset_id, tables, folder, rows, pictures, admitted, examination, places))


def _prepare(spec: DatasetSpec, source: Source, folder: Path) -> str:
    """Make the folder of the registration, or keep what is in it if it is of the same spec and tables; says the tables' digest."""
    tables = source.fingerprint()
    plan = json.dumps({"spec": spec.model_dump(mode="json"), "tables": tables, "version": lethe_version()}, sort_keys=True)
    place = folder / _PLAN
    if not (place.is_file() and place.read_text(encoding="utf-8") == plan):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        place.write_text(plan, encoding="utf-8")
    return tables


def _rows(spec: DatasetSpec, source: Source, folder: Path, encoder: PromptEncoder | None, report: Report) -> FilmRows:
    message = "reading the table of films"
    report(0, 1, message)
    return spool_rows(
        source,
        spec,
        folder,
        rows_per_group=rows_per_spool(spec.image_size),
        count_tokens=None if encoder is None else encoder.count,
        on_rows=lambda rows: report(0, 1, message, rows=rows),
    )


def _assembled(
    spec: DatasetSpec,
    dataset_id: str,
    tables: str,
    folder: Path,
    rows: FilmRows,
    pictures: FilmPictures,
    admitted: NDArray[np.bool_],
    examination: Examination,
    places: FilmPlaces,
) -> tuple[DatasetManifest, Path]:
    """The manifest, and a folder with everything to commit."""
    target = folder / "committed"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    writer = FilmWriter(target, rows_per_part=rows_per_part(spec.image_size))
    samples, shown = sample_positions(len(places.split)), []
    with writer:
        for films in _films(rows, pictures, admitted, examination, places):
            first = films.column("record")[0].as_py()
            while samples and samples[0] < first + len(films):
                png = films.column("png")[samples.pop(0) - first].as_py()
                shown.append(tile(decode_png(png, max_pixels=MAX_FILM_PIXELS)))
            writer.write(films)
    (target / CONTACT_SHEET_NAME).write_bytes(encode_png(contact_sheet(shown)))
    write_findings(examination, rows, target)
    counts, patients = split_counts(examination, places)
    ageless = int((examination.columns.age[examination.kept] == NO_AGE).sum())
    manifest = DatasetManifest(
        id=dataset_id,
        name=spec.name,
        image_size=spec.image_size,
        counts=counts,
        patients=patients,
        prompt_uniqueness=anonymity_table(examination),
        duplicates=sum(len(finding.films) for finding in examination.findings if finding.gate == "duplicates"),
        warnings=warnings(spec, examination.results, ageless, counts),
        labels=list(LABELS),
        seed=spec.seed,
        parts=[DatasetPart(path=part.name, rows=part.rows, splits=part.splits) for part in writer.parts],
        histograms=histograms(examination),
        gates=examination.results,
        left_out=int((~examination.kept).sum()),
        lineage={"spec": spec.model_dump(mode="json"), "table_sha256": tables},
    )
    return manifest, target


def _films(
    rows: FilmRows, pictures: FilmPictures, admitted: NDArray[np.bool_], examination: Examination, places: FilmPlaces
) -> Iterator[pa.Table]:
    """The kept films with everything known of them, group by group."""
    start = record = 0
    for number, size in enumerate(rows.sizes()):
        inside = slice(start, start + size)
        start += size
        facts = prompted(rows.group(number), examination, inside)
        if not len(facts):
            continue
        shown = pictures.part(number, ["png", "sha256"]).filter(pa.array(examination.kept[inside][admitted[inside]]))
        here = slice(record, record + len(facts))
        record += len(facts)
        columns = {name: facts.column(name) for name in ("patient", "study", "view", "prompt", "labels", "sex", "age")} | {
            "record": pa.array(np.arange(here.start, here.stop, dtype=np.int32)),
            "split": pa.array(SPLITS).take(pa.array(places.split[here])),
            "fold": pa.array(FOLDS).take(pa.array(places.fold[here])),
            "repeats": pa.array(places.repeats[here]),
            "sha256": pa.array([digest.hex() for digest in shown.column("sha256").to_pylist()]),
            "png": shown.column("png"),
        }
        yield pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _sweep(folder: Path) -> None:
    """Remove what registrations left that nobody went on with: it holds films of patients."""
    for left in folder.glob("*"):
        if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
