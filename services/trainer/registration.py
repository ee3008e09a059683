"""Registering a data set: reads a source, splits it by patient, chooses canaries and commits the films to the catalog."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.trainer.dataset_spec import CanaryRecipe, DatasetSpec, PhantomSource
from services.trainer.source_opening import Report, open_source
from shared.catalog import Catalog, DatasetManifest
from shared.errors import DatasetError, NotFoundError
from shared.imaging.clauses import LABELS
from shared.imaging.films import Film, difference_hash, write_films
from shared.imaging.pixels import read_pictures
from shared.imaging.png import encode_png
from shared.imaging.prompts import compose_prompt, normalise_prompt
from shared.imaging.sources import SourceFilm
from shared.imaging.splits import Candidate, Placement, place_films
from shared.settings import Settings

MEASURABLE_CONTROLS: Final = 100  # with fewer, a false-positive rate of 1 % allows not a single false positive


def register(spec: DatasetSpec, *, dataset_id: str, catalog: Catalog, settings: Settings, report: Report) -> DatasetManifest:
    """Register a data set under an id that was given before; nothing is committed unless all of it is sound.

    A second run under the same id, after a restart, returns what the first one committed.
    """
    try:
        return catalog.get("dataset", dataset_id)
    except NotFoundError:
        return _register_anew(spec, dataset_id, catalog, settings, report)


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
    source = open_source(spec, settings, report)
    report(0, 1, "reading the table of films")
    sources = list(source.films())
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
            lineage={"spec": spec.model_dump(mode="json"), "table_sha256": source.fingerprint()},
        )
        return catalog.commit(manifest, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
            canaries > 0 and not isinstance(spec.source, PhantomSource)
        ),
    }
    return [warning for warning, holds in told.items() if holds]
