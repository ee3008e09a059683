"""Registering a data set: reads a source, splits it by patient, chooses canaries and commits the films to the catalog."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from shared.catalog import Catalog, DatasetManifest
from shared.errors import DatasetError, ForbiddenError, InvalidRequestError, NotFoundError
from shared.imaging.chexpert import SourceFilm, read_chexpert, read_pictures
from shared.imaging.clauses import LABELS
from shared.imaging.films import Film, difference_hash, write_films
from shared.imaging.phantom_dataset import LABELS_CSV, REPORTS_CSV, write_phantom_chexpert
from shared.imaging.png import encode_png
from shared.imaging.prompts import Template, Uncertain, compose_prompt, normalise_prompt
from shared.imaging.splits import Candidate, Placement, place_films
from shared.settings import Settings

PHANTOM_OVERSIZE: Final = 2  # phantom films are written larger than they are read, as real ones are
MEASURABLE_CONTROLS: Final = 100  # with fewer, a false-positive rate of 1 % allows not a single false positive

Report = Callable[[int, int, str], None]
"""Told how far the job is: step, of how many, doing what. May raise to stop."""


class _Strict(BaseModel):
    """Frozen, without unknown fields, without conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class CheXpertSource(_Strict):
    """A folder in CheXpert's layout."""

    format: Literal["chexpert"]
    uri: str = Field(min_length=1, max_length=4096, description="file:// folder within the import roots.")
    csv: str = Field(default="train.csv", min_length=1, max_length=255, description="The table of films, below the folder.")
    reports_csv: str | None = Field(default=None, max_length=255, description="Reports in CheXpert Plus's columns, below the folder.")


class PhantomSource(_Strict):
    """Procedural radiographs, written in CheXpert's layout and read back."""

    format: Literal["phantom"]
    uri: str | None = Field(default=None, max_length=4096, description="file:// folder to write to; under LETHE_HOME without it.")
    patients: int = Field(default=400, ge=2, le=20_000, description="How many synthetic patients; each has one to four films.")


class PromptRecipe(_Strict):
    """How prompts are composed."""

    template: Template = "findings"
    uncertain: Uncertain = "ignore"


class CanaryRecipe(_Strict):
    """How many training films are repeated, and how often each."""

    count: int = Field(default=10, ge=0, le=10_000)
    repeats: int = Field(default=40, ge=2, le=1000)


class DatasetSpec(_Strict):
    """What to register."""

    name: str = Field(min_length=1, max_length=200)
    source: Annotated[CheXpertSource | PhantomSource, Field(discriminator="format")]
    image_size: int = Field(default=64, ge=16, le=1024, multiple_of=8, description="Side of the square films, in pixels.")
    prompt: PromptRecipe = PromptRecipe()
    views: list[Literal["frontal", "lateral", "AP", "PA"]] = Field(default=["frontal"], min_length=1, max_length=4)
    control_fraction: float = Field(default=0.2, ge=0, le=0.9, description="Share of the patients that is never trained on.")
    canaries: CanaryRecipe | None = None
    seed: int = Field(default=0, ge=0, le=2**31 - 1)


def register(spec: DatasetSpec, *, dataset_id: str, catalog: Catalog, settings: Settings, report: Report) -> DatasetManifest:
    """Register a data set under an id that was given before; nothing is committed unless all of it is sound.

    A second run under the same id, after a restart, returns what the first one committed.
    """
    try:
        return catalog.get("dataset", dataset_id)
    except NotFoundError:
        return _register_anew(spec, dataset_id, catalog, settings, report)


def source_folder(spec: DatasetSpec, settings: Settings) -> Path:
    """The folder that a spec names, symlinks followed; ForbiddenError when it lies outside the import roots."""
    if spec.source.uri is None:
        size = PHANTOM_OVERSIZE * spec.image_size
        return settings.home.resolve() / "phantom" / f"{spec.source.patients}-patients-{size}-pixels-seed-{spec.seed}"
    parts = urlsplit(spec.source.uri)
    path = unquote(parts.path)
    if parts.scheme != "file" or parts.netloc not in {"", "localhost"} or not path.startswith("/") or "\0" in path:
        raise InvalidRequestError("source.uri must be file:// with an absolute path", field="source.uri")
    folder = Path(path).resolve()
    if not any(folder.is_relative_to(root) for root in settings.import_folders):
        raise ForbiddenError("source.uri lies outside the folders that data may be imported from (LETHE_IMPORT_ROOTS)")
    return folder


# ---------------------------------------------------------------- the steps


@dataclass
class _Census:
    """What is counted while films pass."""

    digests: Counter[str] = field(default_factory=Counter)
    looks: defaultdict[bytes, set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def duplicates(self) -> int:
        """Films whose pixels an earlier film has."""
        return self.digests.total() - len(self.digests)

    @property
    def near_duplicates(self) -> int:
        """Films of other pixels that look like an earlier film."""
        return sum(len(digests) - 1 for digests in self.looks.values())


def _register_anew(spec: DatasetSpec, dataset_id: str, catalog: Catalog, settings: Settings, report: Report) -> DatasetManifest:
    sources, table = _read_source(spec, settings, report)
    described = [film for film in sources if film.impression] if spec.prompt.template == "impression" else sources
    if not described:
        raise DatasetError("no film has an impression; name reports_csv or choose another prompt template", field="prompt.template")
    prompts = [compose_prompt(spec.prompt.template, film, spec.prompt.uncertain) for film in described]
    placements = _place(spec, described, prompts)
    census = _Census()
    folder = settings.home.resolve() / "registrations" / dataset_id
    shutil.rmtree(folder, ignore_errors=True)  # what a killed run of the same job left
    folder.mkdir(parents=True)
    try:
        write_films(_films(spec, described, prompts, placements, census, report), folder)
        report(len(described), len(described), "storing the data set")
        manifest = DatasetManifest(
            id=dataset_id,
            name=spec.name,
            image_size=spec.image_size,
            counts=dict(Counter(placement.split for placement in placements)),
            patients=_patients(described, placements),
            prompt_uniqueness=_uniqueness(described, prompts),
            duplicates=census.duplicates,
            warnings=_warnings(spec, sources, described, placements, census),
            labels=list(LABELS),
            seed=spec.seed,
            lineage={"spec": spec.model_dump(mode="json"), "table_sha256": hashlib.sha256(table.read_bytes()).hexdigest()},
        )
        return catalog.commit(manifest, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read_source(spec: DatasetSpec, settings: Settings, report: Report) -> tuple[list[SourceFilm], Path]:
    """The films of the source and the table they come from; a phantom is written first and then read like any other."""
    folder = source_folder(spec, settings)
    if isinstance(spec.source, CheXpertSource):
        roots, table, reports = settings.import_folders, spec.source.csv, spec.source.reports_csv
    else:
        folder = write_phantom_chexpert(
            folder,
            patients=spec.source.patients,
            seed=spec.seed,
            size=PHANTOM_OVERSIZE * spec.image_size,
            on_progress=lambda step, total: report(step, total, "drawing films"),
        )
        roots, table, reports = [folder], LABELS_CSV, REPORTS_CSV
    report(0, 1, "reading the table of films")
    return read_chexpert(folder, table, views=spec.views, reports_csv=reports, roots=roots), folder / table


def _place(spec: DatasetSpec, films: Sequence[SourceFilm], prompts: Sequence[str]) -> list[Placement]:
    candidates = [
        Candidate(key=film.key, patient=film.patient, view=film.view, prompt=prompt) for film, prompt in zip(films, prompts, strict=True)
    ]
    canaries = spec.canaries or CanaryRecipe(count=0)
    return place_films(
        candidates, control_fraction=spec.control_fraction, canaries=canaries.count, repeats=canaries.repeats, seed=spec.seed
    )


def _films(
    spec: DatasetSpec,
    sources: Sequence[SourceFilm],
    prompts: Sequence[str],
    placements: Sequence[Placement],
    census: _Census,
    report: Report,
) -> Iterator[Film]:
    """Decode film after film, counting duplicates on the way."""
    pictures = read_pictures(sources, spec.image_size)
    for record, (source, prompt, placement, picture) in enumerate(zip(sources, prompts, placements, pictures, strict=True)):
        png = encode_png(picture)
        sha256 = hashlib.sha256(png).hexdigest()
        census.digests[sha256] += 1
        census.looks[difference_hash(picture)].add(sha256)
        yield Film(
            record=record,
            patient=source.patient,
            study=source.study,
            view=source.view,
            prompt=prompt,
            labels=source.labels,
            sex=source.sex,
            age=source.age,
            split=placement.split,
            fold=placement.fold,
            repeats=placement.repeats,
            sha256=sha256,
            png=png,
        )
        report(record + 1, len(sources), "reading films")


# ---------------------------------------------------------------- what is told about a data set


def _patients(films: Sequence[SourceFilm], placements: Sequence[Placement]) -> dict[str, int]:
    members: defaultdict[str, set[str]] = defaultdict(set)
    for film, placement in zip(films, placements, strict=True):
        members[placement.split].add(film.patient)
    return {split: len(patients) for split, patients in members.items()}


def _uniqueness(films: Sequence[SourceFilm], prompts: Sequence[str]) -> dict[str, int]:
    """How many prompts differ, and how many rows have a prompt of one patient only (k counts patients, not rows)."""
    compared = [normalise_prompt(prompt) for prompt in prompts]
    patients: defaultdict[str, set[str]] = defaultdict(set)
    for film, prompt in zip(films, compared, strict=True):
        patients[prompt].add(film.patient)
    return {"distinct": len(patients), "rows_k1": sum(len(patients[prompt]) == 1 for prompt in compared)}


def _warnings(
    spec: DatasetSpec,
    sources: Sequence[SourceFilm],
    films: Sequence[SourceFilm],
    placements: Sequence[Placement],
    census: _Census,
) -> list[str]:
    controls = sum(placement.split == "control" for placement in placements)
    canaries = sum(placement.split == "canary" for placement in placements)
    ageless = sum(film.age is None for film in films)
    told = {
        f"{len(sources) - len(films)} films have no impression and were left out": len(sources) > len(films),
        f"{census.duplicates} films have the same pixels as another film": census.duplicates > 0,
        f"{census.near_duplicates} films look like another film with other pixels": census.near_duplicates > 0,
        f"{ageless} films have no age": ageless > 0,
        f"{controls} control films are too few to measure a false-positive rate of 1 %": controls < MEASURABLE_CONTROLS,
        f"{canaries} films of patients are repeated for models to learn by heart; do not share a model trained on them": (
            canaries > 0 and isinstance(spec.source, CheXpertSource)
        ),
    }
    return [warning for warning, holds in told.items() if holds]
