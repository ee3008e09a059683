"""The films of a data set as they lie in the catalog: Parquet parts with picture, prompt, patient, labels and split.

Shape suffixes: N films, H height, W width.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from shared.errors import DatasetError, NotFoundError
from shared.imaging.png import decode_png
from shared.imaging.splits import Fold, Split

ROWS_PER_PART: Final = 8192  # some ten megabytes of 64-pixel films, some hundred of 256-pixel ones
ROWS_PER_GROUP: Final = 256  # what one picture's reading unpacks
MAX_FILM_PIXELS: Final = 4096 * 4096
HASH_SIDE: Final = 16  # difference hash of 256 bits: films of different patients differ in many of them

SCHEMA: Final = pa.schema(
    [
        pa.field("record", pa.int32(), nullable=False),
        pa.field("patient", pa.string(), nullable=False),
        pa.field("study", pa.string(), nullable=False),
        pa.field("view", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("labels", pa.map_(pa.string(), pa.int8()), nullable=False),
        pa.field("sex", pa.string(), nullable=False),
        pa.field("age", pa.int16()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("fold", pa.string(), nullable=False),
        pa.field("repeats", pa.int32(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("png", pa.binary(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class FilmFacts:
    """All that is known of a film but its picture; `sha256` is that of its PNG, and so the same for the same pixels."""

    record: int
    patient: str
    study: str
    view: str
    prompt: str
    labels: Mapping[str, int | None]
    sex: str
    age: int | None
    split: Split
    fold: Fold
    repeats: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Film(FilmFacts):
    """A film with its picture."""

    png: bytes


_FACTS: Final = [field.name for field in fields(FilmFacts)]


def write_films(films: Iterable[Film], folder: Path, *, rows_per_part: int = ROWS_PER_PART) -> int:
    """Write films, whose records count from 0 in order, as part-*.parquet into an existing folder; return how many."""
    writer: pq.ParquetWriter | None = None
    group: list[Film] = []
    total = 0
    try:
        for film in films:
            if film.record != total:
                raise ValueError(f"record must be {total}, not {film.record}: films are written in order")
            if total % rows_per_part == 0:
                _flush(writer, group)
                writer = _next_part(writer, folder, total // rows_per_part)
            group.append(film)
            total += 1
            if len(group) == ROWS_PER_GROUP:
                _flush(writer, group)
        _flush(writer, group)
    finally:
        if writer is not None:
            writer.close()
    return total


def difference_hash(image_HW: NDArray[np.uint8]) -> bytes:
    """256 bits that survive another encoding of the same picture: whether brightness rises between neighbours of a 17×16 thumbnail."""
    small = Image.fromarray(image_HW).resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small).astype(np.int16)
    return np.packbits(pixels[:, 1:] > pixels[:, :-1]).tobytes()


class FilmTable:
    """Reads the films of a folder of parts; facts are held in memory, pictures are read when asked for."""

    def __init__(self, folder: Path) -> None:
        """Read the facts of all films below `folder`."""
        self._parts = sorted(folder.glob("part-*.parquet"))
        if not self._parts:
            raise DatasetError(f"no part-*.parquet in {folder.name}: the data set has no films")
        self._starts: list[int] = []
        facts: list[FilmFacts] = []
        for part in self._parts:
            self._starts.append(len(facts))
            facts.extend(FilmFacts(**_plain(row)) for row in pq.read_table(part, columns=_FACTS).to_pylist())
        self.facts: Sequence[FilmFacts] = facts

    def __len__(self) -> int:
        return len(self.facts)

    def __iter__(self) -> Iterator[Film]:
        """All films with pictures, in order, a row group at a time."""
        for part in self._parts:
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(batch_size=ROWS_PER_GROUP):
                    for row in batch.to_pylist():
                        yield Film(**_plain(row))

    def select(self, *splits: Split, fold: Fold = "") -> list[int]:
        """The records of these splits (all, without any), of one fold if given, in order."""
        return [f.record for f in self.facts if (not splits or f.split in splits) and (not fold or f.fold == fold)]

    def film(self, record: int) -> Film:
        """One film with its picture."""
        return Film(**{name: getattr(self._known(record), name) for name in _FACTS}, png=self.pngs([record])[0])

    def pngs(self, records: Sequence[int]) -> list[bytes]:
        """The PNG bytes of these records, in the order asked for; every row group is read once."""
        found: dict[int, bytes] = {}
        by_part: dict[int, set[int]] = {}
        for record in records:
            self._known(record)
            by_part.setdefault(bisect.bisect_right(self._starts, record) - 1, set()).add(record)
        for part, wanted in by_part.items():
            found |= self._part_pngs(part, wanted)
        return [found[record] for record in records]

    def images(self, records: Sequence[int]) -> NDArray[np.uint8]:
        """The pixels of these records, N×H×W."""
        if not records:
            return np.zeros((0, 0, 0), dtype=np.uint8)
        return np.stack([decode_png(png, max_pixels=MAX_FILM_PIXELS) for png in self.pngs(records)])

    def _known(self, record: int) -> FilmFacts:
        if not 0 <= record < len(self.facts):
            raise NotFoundError(f"record {record} does not exist; the data set has records 0 to {len(self.facts) - 1}")
        return self.facts[record]

    def _part_pngs(self, part: int, wanted: set[int]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        with pq.ParquetFile(self._parts[part]) as file:
            first = self._starts[part]
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                here = sorted(record for record in wanted if first <= record < first + rows)
                if here:
                    column = file.read_row_group(group, columns=["png"]).column("png")
                    found |= {record: column[record - first].as_py() for record in here}
                first += rows
        return found


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"labels": dict(row["labels"])}


def _flush(writer: pq.ParquetWriter | None, group: list[Film]) -> None:
    """Write the waiting films as one row group."""
    if writer is None or not group:
        return
    columns = {name: [getattr(film, name) for film in group] for name in SCHEMA.names if name != "labels"}
    columns["labels"] = [list(film.labels.items()) for film in group]
    writer.write_table(pa.table(columns, schema=SCHEMA))
    group.clear()


def _next_part(writer: pq.ParquetWriter | None, folder: Path, number: int) -> pq.ParquetWriter:
    if writer is not None:
        writer.close()
    compression = {name: "NONE" if name == "png" else "ZSTD" for name in SCHEMA.names}  # PNG bytes do not compress again
    return pq.ParquetWriter(folder / f"part-{number:05}.parquet", SCHEMA, compression=compression)
