"""What is told about a data set beside its films: histograms, warnings, and the list of what its gates found."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.trainer.dataset_spec import DatasetSpec, PhantomSource
from services.trainer.film_rows import NO_AGE, FilmRows
from services.trainer.gates import Examination
from services.trainer.placement import FilmPlaces
from shared.imaging.clauses import LABELS
from shared.imaging.splits import SPLITS

FINDINGS_NAME: Final = "gate-findings.csv"
MEASURABLE_CONTROLS: Final = 100  # with fewer, a false-positive rate of 1 % allows not a single false positive
PRESENT: Final = 1
UNCERTAIN: Final = -1
_COLUMNS: Final = ("gate", "outcome", "line", "key", "record", "earlier_line")


def histograms(examination: Examination) -> dict[str, dict[str, int]]:
    """How many kept films have each sex, decade of age, view, present label and uncertain label."""
    columns, kept = examination.columns, examination.kept
    ages = columns.age[kept]
    decades = {f"{age}-{age + 9}": int(((ages >= age) & (ages < age + 10)).sum()) for age in range(0, int(ages.max(initial=0)) + 1, 10)}
    labels = columns.labels_NL[kept]
    return {
        "sex": _counted(columns.sexes, columns.sex[kept]),
        "age": {name: count for name, count in (decades | {"unknown": int((ages == NO_AGE).sum())}).items() if count},
        "view": _counted(columns.views, columns.view[kept]),
        "labels": _labelled(labels, PRESENT),
        "uncertain_labels": _labelled(labels, UNCERTAIN),
    }


def split_counts(examination: Examination, places: FilmPlaces) -> tuple[dict[str, int], dict[str, int]]:
    """Films and patients of each split that has any."""
    patient = examination.columns.patient[examination.positions()]
    inside: dict[str, NDArray[np.bool_]] = {name: places.split == number for number, name in enumerate(SPLITS)}
    films: dict[str, int] = {name: int(chosen.sum()) for name, chosen in inside.items() if chosen.any()}
    return films, {name: len(np.unique(patient[inside[name]])) for name in films}


def warnings(spec: DatasetSpec, results: Mapping[str, Mapping[str, Any]], ageless: int, counts: Mapping[str, int]) -> list[str]:
    """What whoever trains on the data set should know."""

    def films(gate: str, figure: str = "films") -> int:
        return int(results.get(gate, {}).get(figure) or 0)

    controls, canaries, k = counts.get("control", 0), counts.get("canary", 0), spec.gates.k_anonymity.k
    left = {gate: " and were left out" if films(gate, "dropped") else "" for gate in results}
    strangers = films("duplicates", "across_patients") + films("near_duplicates", "across_patients")
    told = {
        f"{films('words')} films have no {spec.prompt.template}{left.get('words')}": films("words") > 0,
        f"{films('deidentification')} films have de-identification marks, dates or record numbers in their prompts"
        f"{left.get('deidentification')}": films("deidentification") > 0,
        f"{films('prompt_length')} films have prompts longer than the encoder reads{left.get('prompt_length')}": films("prompt_length") > 0,
        f"{films('burned_in')} films seem to have writing in the picture{left.get('burned_in')}": films("burned_in") > 0,
        f"{films('duplicates')} films have the same pixels as another film{left.get('duplicates')}": films("duplicates") > 0,
        f"{films('near_duplicates')} films look like another film with other pixels{left.get('near_duplicates')}": (
            films("near_duplicates") > 0
        ),
        f"{strangers} films show the picture of another patient; look at them, for a name or a label may be wrong": strangers > 0,
        f"{films('max_films_per_patient')} films are beyond {spec.max_films_per_patient} of one patient and were left out": (
            films("max_films_per_patient") > 0
        ),
        f"{films('k_anonymity')} films have prompts of fewer than {k} patients{left.get('k_anonymity')}": films("k_anonymity") > 0,
        f"{films('k_anonymity', 'generalised')} films have prompts with the decade instead of the age": (
            films("k_anonymity", "generalised") > 0
        ),
        f"{ageless} films have no age": ageless > 0,
        f"{controls} control films are too few to measure a false-positive rate of 1 %": controls < MEASURABLE_CONTROLS,
        f"{canaries} films of patients are repeated for models to learn by heart; do not share a model trained on them": (
            canaries > 0 and not isinstance(spec.source, PhantomSource)
        ),
    }
    return [warning for warning, holds in told.items() if holds]


def write_findings(examination: Examination, rows: FilmRows, folder: Path) -> None:
    """List every film that a gate found, in the order of the gates and then of the source; nothing is written where none found any."""
    if not examination.findings:
        return
    records = np.cumsum(examination.kept) - 1
    keys = _keys(rows, np.unique(np.concatenate([finding.films for finding in examination.findings])))
    lines = examination.columns.line
    with (folder / FINDINGS_NAME).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for finding in examination.findings:
            earlier = finding.earlier if finding.earlier is not None else np.full(len(finding.films), -1)
            for film, other in zip(finding.films.tolist(), earlier.tolist(), strict=True):
                record = int(records[film]) if examination.kept[film] else ""
                before = "" if other < 0 else int(lines[other])
                writer.writerow([finding.gate, finding.outcome, int(lines[film]), keys[film], record, before])


def _keys(rows: FilmRows, films: NDArray[np.int64]) -> dict[int, str]:
    """The names of these films in the source."""
    starts = np.cumsum([0, *rows.sizes()])
    bounds = np.searchsorted(films, starts)
    found: dict[int, str] = {}
    for group in range(rows.groups):
        inside = films[bounds[group] : bounds[group + 1]]
        if len(inside):
            column = rows.group(group, ["key"]).column("key").take(pa.array(inside - starts[group]))
            found |= dict(zip(inside.tolist(), column.to_pylist(), strict=True))
    return found


def _counted(names: pa.Array, codes: NDArray[np.int32]) -> dict[str, int]:
    """Counts by name, most frequent first."""
    counts = np.bincount(codes, minlength=len(names))
    ordered = sorted(zip(names.to_pylist(), counts.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    return {name: count for name, count in ordered if count}


def _labelled(labels_NL: NDArray[np.int8], value: int) -> dict[str, int]:
    counts = (labels_NL == value).sum(0).tolist()
    return {name: count for name, count in zip(LABELS, counts, strict=True) if count}
