"""The rows of a source on disk, with their prompts, and what is decided on in memory: some eighty bytes a film.

Shape suffixes: N films, L labels, K kinds of markers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from services.trainer.dataset_spec import DatasetSpec
from services.trainer.spool import SpoolWriter, find_spooled
from shared.imaging.clauses import LABELS
from shared.imaging.films import SCHEMA
from shared.imaging.prompts import TokenCounter, compose_prompt, is_described, normalise_prompt
from shared.imaging.scrubbing import Marker, count_markers
from shared.imaging.sources import Source, SourceFilm

MARKERS: Final[tuple[Marker, ...]] = get_args(Marker)
UNSAID: Final = -2  # of a label that is not mentioned, where a byte holds it
NO_AGE: Final = -1
_NAME: Final = "rows"
_DIGEST_BYTES: Final = 16

ROWS: Final = pa.schema(
    [
        pa.field("line", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        *(SCHEMA.field(name) for name in ("patient", "study", "view", "sex", "age", "labels")),
        pa.field("prompt", pa.string()),  # none where the template finds no words
        pa.field("coarse_prompt", pa.string()),  # with ages by decade, where that makes a difference
        pa.field("compared", pa.binary(_DIGEST_BYTES), nullable=False),
        pa.field("coarse_compared", pa.binary(_DIGEST_BYTES), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        *(pa.field(kind, pa.int16(), nullable=False) for kind in MARKERS),
        pa.field("marked", pa.bool_(), nullable=False),
        pa.field("burned_in", pa.bool_(), nullable=False),
    ]
)


@dataclass(frozen=True)
class FilmColumns:
    """What is known of every film, a number each; names are told apart by codes."""

    line: NDArray[np.int64]
    patient: NDArray[np.int32]
    patients: pa.Array
    view: NDArray[np.int32]
    views: pa.Array
    sex: NDArray[np.int32]
    sexes: pa.Array
    age: NDArray[np.int16]
    labels_NL: NDArray[np.int8]
    described: NDArray[np.bool_]
    prompt: NDArray[np.int64]
    coarse_prompt: NDArray[np.int64]
    tokens: NDArray[np.int32]
    markers_NK: NDArray[np.int16]
    marked: NDArray[np.bool_]
    burned_in: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.line)


class FilmRows:
    """The rows as they were written: groups of equal length, in the source's order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._metadata = pq.read_metadata(path)
        self.groups = self._metadata.num_row_groups

    def group(self, number: int, columns: list[str] | None = None) -> pa.Table:
        """One group, all of its columns unless some are named."""
        with pq.ParquetFile(self._path, metadata=self._metadata) as file:
            return file.read_row_group(number, columns=columns)

    def sizes(self) -> list[int]:
        """How many rows each group has."""
        return [self._metadata.row_group(number).num_rows for number in range(self.groups)]

    def columns(self) -> FilmColumns:
        """All that is decided on."""
        patient, patients = self._codes("patient")
        view, views = self._codes("view")
        sex, sexes = self._codes("sex")
        compared = [self._digests(name) for name in ("compared", "coarse_compared")]
        _, prompts = np.unique(np.concatenate(compared), return_inverse=True)
        return FilmColumns(
            line=self._numbers("line"),
            patient=patient,
            patients=patients,
            view=view,
            views=views,
            sex=sex,
            sexes=sexes,
            age=self._join("age", lambda column: column.fill_null(NO_AGE).to_numpy(zero_copy_only=False).astype(np.int16)),
            labels_NL=self._join("labels", _labels),
            described=self._join("prompt", lambda column: column.is_valid().to_numpy(zero_copy_only=False)),
            prompt=prompts[: len(compared[0])],
            coarse_prompt=prompts[len(compared[0]) :],
            tokens=self._numbers("tokens"),
            markers_NK=np.stack([self._numbers(kind) for kind in MARKERS], axis=1),
            marked=self._numbers("marked"),
            burned_in=self._numbers("burned_in"),
        )

    def _codes(self, name: str) -> tuple[NDArray[np.int32], pa.Array]:
        """A column of names as codes, and the names."""
        chunks = pa.chunked_array(
            [self.group(number, [name]).column(name).combine_chunks().dictionary_encode() for number in range(self.groups)]
        )
        whole = chunks.unify_dictionaries().combine_chunks()
        return whole.indices.to_numpy(), whole.dictionary

    def _digests(self, name: str) -> NDArray[np.void]:
        return self._join(name, lambda column: np.frombuffer(b"".join(column.to_pylist()), dtype=f"V{_DIGEST_BYTES}"))

    def _numbers(self, name: str) -> NDArray[Any]:
        return self._join(name, lambda column: column.to_numpy(zero_copy_only=False))

    def _join(self, name: str, convert: Callable[[pa.Array], NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate([convert(self.group(number, [name]).column(name).combine_chunks()) for number in range(self.groups)])


def spool_rows(
    source: Source,
    spec: DatasetSpec,
    folder: Path,
    *,
    rows_per_group: int,
    count_tokens: TokenCounter | None,
    on_rows: Callable[[int], None],
) -> FilmRows:
    """Read the source once and write its rows, unless an earlier attempt did; a malformed source raises and leaves nothing."""
    finished = find_spooled(folder, _NAME)
    if finished is not None:
        return FilmRows(finished)
    writer = SpoolWriter(folder, _NAME, ROWS)
    try:
        total = 0
        for group in _grouped(source.films(), rows_per_group):
            rows = [_row(film, spec) for film in group]
            if count_tokens is not None:
                for row, tokens in zip(rows, count_tokens([row["prompt"] or "" for row in rows]), strict=True):
                    row["tokens"] = tokens
            writer.write(pa.Table.from_pylist(rows, schema=ROWS))
            total += len(rows)
            on_rows(total)
        return FilmRows(writer.keep())
    finally:
        writer.close()


def films_of(rows: pa.Table) -> Iterator[SourceFilm]:
    """Spooled rows as what a picture is read from."""
    columns = rows.select(["line", "key", "path", "patient", "study", "view", "sex", "age"]).to_pylist()
    return (SourceFilm(**(row | {"path": Path(row["path"])}), labels={}) for row in columns)


def _grouped(films: Iterator[SourceFilm], size: int) -> Iterator[list[SourceFilm]]:
    group: list[SourceFilm] = []
    for film in films:
        group.append(film)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _row(film: SourceFilm, spec: DatasetSpec) -> dict[str, Any]:
    recipe = spec.prompt
    found: dict[str, int] = dict.fromkeys(MARKERS, 0)
    prompt = coarse = None
    if is_described(recipe.template, film, scrubbed=recipe.scrub):
        prompt = compose_prompt(recipe.template, film, recipe.uncertain, age=recipe.age, scrubbed=recipe.scrub)
        if spec.gates.k_anonymity.action == "generalise":
            coarse = compose_prompt(recipe.template, film, recipe.uncertain, age="decade", scrubbed=recipe.scrub)
    if recipe.template not in {"findings", "demographics"} and is_described(recipe.template, film):
        found |= count_markers(compose_prompt(recipe.template, film, recipe.uncertain))
    return {
        "line": film.line,
        "key": film.key,
        "path": str(film.path),
        "patient": film.patient,
        "study": film.study,
        "view": film.view,
        "sex": film.sex,
        "age": film.age,
        "labels": film.labels,
        "prompt": prompt,
        "coarse_prompt": None if coarse == prompt else coarse,
        "compared": _compared(prompt),
        "coarse_compared": _compared(prompt if coarse is None else coarse),
        "tokens": 0,
        **found,
        "marked": bool(prompt and count_markers(prompt)) if recipe.scrub else any(found.values()),
        "burned_in": film.burned_in,
    }


def _compared(prompt: str | None) -> bytes:
    """What tells prompts apart that differ in more than case, spaces and punctuation."""
    return hashlib.blake2b(normalise_prompt(prompt or "").encode(), digest_size=_DIGEST_BYTES).digest()


def _labels(column: pa.Array) -> NDArray[np.int8]:
    return np.stack([column.field(name).fill_null(UNSAID).to_numpy(zero_copy_only=False) for name in LABELS], axis=1).astype(np.int8)
