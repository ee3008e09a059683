"""Which films are trained on, held out or repeated, as a code a film."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.trainer.dataset_spec import CanaryRecipe, DatasetSpec
from services.trainer.film_rows import FilmRows
from services.trainer.gates import Examination, patients_together
from shared.imaging.splits import FOLDS, SPLITS, Candidate, choose_canaries, split_patients


@dataclass(frozen=True)
class FilmPlaces:
    """The place of every kept film: numbers of SPLITS and FOLDS, and how often an epoch shows it."""

    split: NDArray[np.uint8]
    fold: NDArray[np.uint8]
    repeats: NDArray[np.int32]


def place_kept(examination: Examination, rows: FilmRows, spec: DatasetSpec) -> FilmPlaces:
    """Place the kept films: control patients first, those that share pictures together; canaries among the training films."""
    columns, kept = examination.columns, examination.positions()
    fold_of = _patient_folds(examination, spec)
    fold = fold_of[columns.patient[kept]]
    split = np.where(fold > 0, SPLITS.index("control"), SPLITS.index("train")).astype(np.uint8)
    repeats = np.ones(len(kept), dtype=np.int32)
    canaries = spec.canaries or CanaryRecipe(count=0)
    if canaries.count:
        controls = frozenset(columns.patients.take(pa.array(np.flatnonzero(fold_of))).to_pylist())
        chosen = choose_canaries(_Candidates(rows, examination), excluded=controls, count=canaries.count, seed=spec.seed)
        places = np.array(sorted(chosen), dtype=np.int64)
        split[places], repeats[places] = SPLITS.index("canary"), canaries.repeats
    return FilmPlaces(split, fold, repeats)


def _patient_folds(examination: Examination, spec: DatasetSpec) -> NDArray[np.uint8]:
    """The fold of every patient with a kept film, 0 for those who are trained on."""
    columns = examination.columns
    names: list[str] = columns.patients.to_pylist()
    present = np.unique(columns.patient[examination.kept])
    groups = patients_together(examination)
    spokesman: dict[int, str] = {}
    for patient in present.tolist():
        group = int(groups[patient])
        spokesman[group] = min(spokesman.get(group, names[patient]), names[patient])
    folds = split_patients(spokesman.values(), control_fraction=spec.control_fraction, seed=spec.seed)
    of_patient = np.zeros(len(names), dtype=np.uint8)
    of_patient[present] = [FOLDS.index(folds.get(spokesman[int(groups[patient])], "")) for patient in present]
    return of_patient


class _Candidates(Sequence[Candidate]):
    """The kept films as canaries are chosen from, read from disk a group at a time."""

    def __init__(self, rows: FilmRows, examination: Examination) -> None:
        self._rows = rows
        self._examination = examination
        self._sizes = np.cumsum([0, *rows.sizes()])
        self._kept = examination.positions()
        self._starts = np.searchsorted(self._kept, self._sizes)
        self._held: tuple[int, list[Candidate]] = (-1, [])

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Candidate]:
        for group in range(self._rows.groups):
            yield from self._read(group)

    @overload
    def __getitem__(self, place: int) -> Candidate: ...
    @overload
    def __getitem__(self, place: slice) -> list[Candidate]: ...
    def __getitem__(self, place: int | slice) -> Candidate | list[Candidate]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        group = int(np.searchsorted(self._starts, place, "right")) - 1
        if self._held[0] != group:
            self._held = group, self._read(group)
        return self._held[1][place - int(self._starts[group])]

    def _read(self, group: int) -> list[Candidate]:
        rows = slice(int(self._sizes[group]), int(self._sizes[group + 1]))
        table = prompted(self._rows.group(group, ["key", "patient", "view", "prompt", "coarse_prompt"]), self._examination, rows)
        return [Candidate(**row) for row in table.select(["key", "patient", "view", "prompt"]).to_pylist()]


def prompted(table: pa.Table, examination: Examination, rows: slice) -> pa.Table:
    """The kept films of these rows, each with the prompt that it shall have."""
    coarse = pa.array(examination.coarse[rows])
    prompt = pa.compute.if_else(coarse, table.column("coarse_prompt"), table.column("prompt"))
    whole = table.set_column(table.column_names.index("prompt"), "prompt", prompt)
    return whole.filter(pa.array(examination.kept[rows]))
