"""The films of a data set as they lie in the catalog: Parquet parts with picture, prompt, patient, labels and split.

Parts are read by row group, so that one film costs one group and nothing is held of the others but a byte for each one's split.

Shape suffixes: N films, H height, W width.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shared.errors import DatasetError, NotFoundError
from shared.imaging.clauses import LABELS
from shared.imaging.png import decode_png
from shared.imaging.splits import FOLDS, SPLITS, Fold, Split

ROWS_PER_PART: Final = 8192  # some thirty megabytes of 64-pixel films
ROWS_PER_GROUP: Final = 256  # what one picture's reading unpacks
GROUPS_HELD: Final = 2  # facts are mostly asked for in order
MAX_FILM_PIXELS: Final = 4096 * 4096

# Labels are a struct: pandas, DuckDB and Hugging Face's datasets all read one, and the last of them no map.
SCHEMA: Final = pa.schema(
    [
        pa.field("record", pa.int32(), nullable=False),
        pa.field("patient", pa.string(), nullable=False),
        pa.field("study", pa.string(), nullable=False),
        pa.field("view", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("labels", pa.struct([pa.field(name, pa.int8()) for name in LABELS]), nullable=False),
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


@dataclass(frozen=True, kw_only=True)
class WrittenPart:
    """A part that is complete."""

    name: str
    rows: int
    splits: dict[str, int]


def rows_per_part(image_size: int) -> int:
    """How many films of this size a part holds, so that parts stay within some thirty megabytes."""
    fitting = ROWS_PER_PART * 64 * 64 // image_size**2
    return min(ROWS_PER_PART, max(ROWS_PER_GROUP, fitting // ROWS_PER_GROUP * ROWS_PER_GROUP))


class FilmWriter:
    """Writes tables of films, whose records count from 0 in order, as part-*.parquet into an existing folder; holds one part in memory."""

    def __init__(self, folder: Path, *, rows_per_part: int = ROWS_PER_PART) -> None:
        self.parts: list[WrittenPart] = []
        self._folder = folder
        self._rows_per_part = rows_per_part
        self._waiting: list[pa.Table] = []
        self._received = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and self._waiting:
            self._write_part(pa.concat_tables(self._waiting))

    def write(self, films: pa.Table) -> None:
        """Take the next films, in the columns of SCHEMA."""
        records = films.column("record").to_numpy()
        if len(records) and not np.array_equal(records, np.arange(self._received, self._received + len(records))):
            raise ValueError(f"records must go on from {self._received}: films are written in order")
        self._received += len(records)
        self._waiting.append(films)
        waiting = pa.concat_tables(self._waiting)
        while len(waiting) >= self._rows_per_part:
            self._write_part(waiting.slice(0, self._rows_per_part))
            waiting = waiting.slice(self._rows_per_part)
        self._waiting = [waiting] if len(waiting) else []

    def _write_part(self, films: pa.Table) -> None:
        name = f"part-{len(self.parts):05}.parquet"
        compression = {field: "NONE" if field == "png" else "ZSTD" for field in _leaves(SCHEMA)}  # PNG bytes do not compress again
        pq.write_table(films, self._folder / name, row_group_size=ROWS_PER_GROUP, compression=compression)
        counts = films.column("split").value_counts().to_pylist()
        self.parts.append(WrittenPart(name=name, rows=len(films), splits={count["values"]: count["counts"] for count in counts}))


class FilmPart:
    """One Parquet part, whose first film is record `first`; holds the splits of its films, reads the rest when asked."""

    def __init__(self, path: Path, first: int) -> None:
        """Read the footer."""
        self.first = first
        self.name = path.name
        self._path = path
        self._metadata = pq.read_metadata(path)
        self.end = first + int(self._metadata.num_rows)

    def positions(self, splits: Sequence[Split], fold: Fold = "") -> NDArray[np.int64]:
        """The records of these splits (of all, without any), of one fold if given, in order."""
        split_codes, fold_codes = self._codes
        wanted = np.isin(split_codes, [SPLITS.index(split) for split in splits]) if splits else np.ones(len(split_codes), dtype=bool)
        if fold:
            wanted &= fold_codes == FOLDS.index(fold)
        return np.flatnonzero(wanted) + self.first

    def facts(self, records: Sequence[int]) -> list[FilmFacts]:
        """What is known of these records of the part, in the order asked for."""
        found: dict[int, FilmFacts] = {}
        for group, first, wanted in self._groups(records):
            taken = self._read(group, _FACTS).take([record - first for record in wanted])
            found |= {row["record"]: FilmFacts(**_plain(row)) for row in taken.to_pylist()}
        return [found[record] for record in records]

    def column(self, name: str, records: Sequence[int]) -> list[Any]:
        """One column of these records of the part, in the order asked for."""
        values: list[Any] = (
            pq.read_table(self._path, columns=[name]).column(name).take([record - self.first for record in records]).to_pylist()
        )
        return values

    def pngs(self, records: Sequence[int]) -> dict[int, bytes]:
        """The PNG bytes of these records of the part; every row group is read once."""
        found: dict[int, bytes] = {}
        for group, first, wanted in self._groups(records):
            column = self._read(group, ["png"]).column("png")
            found |= {record: column[record - first].as_py() for record in wanted}
        return found

    def film(self, record: int) -> Film:
        """One film of the part with its picture."""
        facts = self.facts([record])[0]
        return Film(**{name: getattr(facts, name) for name in _FACTS}, png=self.pngs([record])[record])

    def films(self) -> Iterator[Film]:
        """All films with pictures, in order, a row group at a time."""
        for group in range(self._metadata.num_row_groups):
            for row in self._read(group, SCHEMA.names).to_pylist():
                yield Film(**_plain(row))

    def _groups(self, records: Sequence[int]) -> Iterator[tuple[int, int, list[int]]]:
        """Row groups that hold some of the records: number, first record, and which."""
        first, ordered = self.first, sorted(set(records))
        for group in range(self._metadata.num_row_groups):
            end = first + self._metadata.row_group(group).num_rows
            wanted = ordered[bisect.bisect_left(ordered, first) : bisect.bisect_left(ordered, end)]
            if wanted:
                yield group, first, wanted
            first = end

    def _read(self, group: int, columns: Sequence[str]) -> pa.Table:
        with pq.ParquetFile(self._path, metadata=self._metadata) as file:
            return file.read_row_group(group, columns=list(columns))

    @cached_property
    def _codes(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Split and fold of every film, a byte each."""
        table = pq.read_table(self._path, columns=["split", "fold"])
        split_codes, fold_codes = (
            pc.index_in(table.column(name), value_set=pa.array(known)).to_numpy().astype(np.uint8)
            for name, known in (("split", SPLITS), ("fold", FOLDS))
        )
        return split_codes, fold_codes


class FilmTable:
    """Reads the films of a folder of parts; facts and pictures are read when asked for."""

    def __init__(self, folder: Path) -> None:
        """Open the parts below `folder`."""
        paths = sorted(folder.glob("part-*.parquet"))
        if not paths:
            raise DatasetError(f"no part-*.parquet in {folder.name}: the data set has no films")
        self.parts: list[FilmPart] = []
        for path in paths:
            self.parts.append(FilmPart(path, self.parts[-1].end if self.parts else 0))
        self._starts = [part.first for part in self.parts]
        self.facts: Sequence[FilmFacts] = _FactsInOrder(self)

    def __len__(self) -> int:
        return self.parts[-1].end

    def __iter__(self) -> Iterator[Film]:
        """All films with pictures, in order, a row group at a time."""
        for part in self.parts:
            yield from part.films()

    def select(self, *splits: Split, fold: Fold = "") -> list[int]:
        """The records of these splits (all, without any), of one fold if given, in order."""
        records: list[int] = np.concatenate([part.positions(splits, fold) for part in self.parts]).tolist()
        return records

    def column(self, name: str, records: Sequence[int]) -> list[Any]:
        """One column of these records, in the order asked for; much less than their facts."""
        values: list[Any] = [None] * len(records)
        for part, places in self._by_part(records):
            for place, value in zip(places, part.column(name, [records[place] for place in places]), strict=True):
                values[place] = value
        return values

    def film(self, record: int) -> Film:
        """One film with its picture."""
        return self.part_of(record).film(record)

    def pngs(self, records: Sequence[int]) -> list[bytes]:
        """The PNG bytes of these records, in the order asked for; every row group is read once."""
        found: dict[int, bytes] = {}
        for part, places in self._by_part(records):
            found |= part.pngs([records[place] for place in places])
        return [found[record] for record in records]

    def images(self, records: Sequence[int]) -> NDArray[np.uint8]:
        """The pixels of these records, N×H×W; the PNG bytes of one part at a time are in memory beside them."""
        images_NHW = np.zeros((len(records), 0, 0), dtype=np.uint8)
        for part, places in self._by_part(records):
            pngs = part.pngs([records[place] for place in places])
            for place in places:
                image_HW = decode_png(pngs[records[place]], max_pixels=MAX_FILM_PIXELS)
                if not images_NHW.size:
                    images_NHW = np.empty((len(records), *image_HW.shape), dtype=np.uint8)
                images_NHW[place] = image_HW
        return images_NHW

    def _by_part(self, records: Sequence[int]) -> Iterator[tuple[FilmPart, list[int]]]:
        """The parts that hold some of the records, each with the places in `records` that it fills."""
        places: dict[int, list[int]] = {}
        for place, record in enumerate(records):
            places.setdefault(self._number_of(record), []).append(place)
        for number in sorted(places):
            yield self.parts[number], places[number]

    def part_of(self, record: int) -> FilmPart:
        """The part that holds a record; NotFoundError when none does."""
        return self.parts[self._number_of(record)]

    def _number_of(self, record: int) -> int:
        if not 0 <= record < len(self):
            raise NotFoundError(f"record {record} does not exist; the data set has records 0 to {len(self) - 1}")
        return bisect.bisect_right(self._starts, record) - 1


class _FactsInOrder(Sequence[FilmFacts]):
    """The facts of a table as a sequence that reads them; going through it in order reads every row group once."""

    def __init__(self, table: FilmTable) -> None:
        self._table = table
        self._held: OrderedDict[int, list[FilmFacts]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, record: int) -> FilmFacts: ...
    @overload
    def __getitem__(self, record: slice) -> list[FilmFacts]: ...
    def __getitem__(self, record: int | slice) -> FilmFacts | list[FilmFacts]:
        if isinstance(record, slice):
            return [self[number] for number in range(*record.indices(len(self)))]
        number = record + len(self) if record < 0 else record
        if not 0 <= number < len(self):
            raise IndexError(record)
        part = self._table.part_of(number)
        start = number - (number - part.first) % ROWS_PER_GROUP
        held = self._held.get(start)
        if held is None:
            held = self._held[start] = part.facts(range(start, min(start + ROWS_PER_GROUP, part.end)))
            while len(self._held) > GROUPS_HELD:
                self._held.popitem(last=False)
        return held[number - start]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"labels": dict(row["labels"])}  # a map, in data sets of version 0.1


def _leaves(schema: pa.Schema) -> list[str]:
    """The names by which Parquet knows the columns: those of a struct are its fields'."""
    return [f"{field.name}.{inner.name}" for field in schema if pa.types.is_struct(field.type) for inner in field.type] + [
        field.name for field in schema if not pa.types.is_struct(field.type)
    ]
