"""CSV tables of any length: read row after row with their lines, and found again by key without being held in memory.

A byte-order mark, CRLF and gzip are fine. What cannot be read is told by its line, and the rows behind it are read all the same.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Self, cast

import numpy as np

from shared.errors import DatasetError
from shared.imaging.sources import RowProblems

MAX_LINE_BYTES: Final = 1_000_000  # a report has some thousand; without a limit, a file without line ends would fill the memory
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_KEY_BYTES: Final = 8  # keys that meet by chance cost a look at one row too many, not a wrong row


class Lines:
    """The lines of an open file as text: `number` counts them, `offset` is where the next one begins.

    Goes on behind a line that is not UTF-8 or too long, which a generator could not.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.number = 0
        self.offset = file.tell()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_LINE_BYTES)
        if not line:
            raise StopIteration
        self.number += 1
        start = len(BYTE_ORDER_MARK) if not self.offset and line.startswith(BYTE_ORDER_MARK) else 0
        self.offset += len(line)
        if len(line) == MAX_LINE_BYTES:
            raise ValueError("the line is too long")
        return line[start:].decode()


@contextmanager
def open_table(table: Path) -> Iterator[IO[bytes]]:
    """Open a table, gzip or not; DatasetError when it is missing or damaged."""
    try:
        with cast("IO[bytes]", gzip.open(table)) if table.suffix == ".gz" else table.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise DatasetError(f"{table.name} is missing from the data set's folder", field="source") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{table.name} cannot be read as a table", field="source") from error


def read_rows(table: Path, needed: Sequence[str], problems: RowProblems) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table with the lines they begin on; rows that cannot be read become problems."""
    with open_table(table) as file:
        for line, _, row in _located_rows(file, table.name, needed, problems):
            yield line, row


def fingerprint_of(tables: Iterable[Path]) -> str:
    """SHA-256 of one table, or over those of several in their order."""
    digests = []
    for table in tables:
        with table.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode("ascii")).hexdigest()


def key_digest(key: str) -> int:
    """The 8 bytes that stand for a key where rows are looked up."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=_KEY_BYTES).digest(), "big")


class RowIndex:
    """Finds the rows of a table by key; holds 16 bytes a row in memory, and reads a row when it is asked for."""

    def __init__(self, table: Path, needed: Sequence[str], key_of: Callable[[dict[str, str]], str], problems: RowProblems) -> None:
        """Pass over the table once; it must not be packed."""
        if table.suffix == ".gz":
            raise DatasetError(f"{table.name} must not be packed: its rows are looked up in any order", field="source")
        self._table = table
        self._key_of = key_of
        keys, offsets = array("Q"), array("Q")
        with open_table(table) as file:
            for _, offset, row in _located_rows(file, table.name, needed, problems):
                keys.append(key_digest(key_of(row)))
                offsets.append(offset)
            file.seek(0)
            self._columns = _header(csv.reader(Lines(file), strict=True), table.name, needed)
        unsorted = np.frombuffer(keys, dtype=np.uint64)
        order = np.argsort(unsorted, kind="stable")
        self._keys, self._offsets = unsorted[order], np.frombuffer(offsets, dtype=np.uint64)[order]

    @contextmanager
    def open(self) -> Iterator[Callable[[str], dict[str, str] | None]]:
        """Open the table to look rows up: of several with a key the last, None for a key that no row has."""
        with open_table(self._table) as file:
            yield lambda key: self._find(file, key)

    def _find(self, file: IO[bytes], key: str) -> dict[str, str] | None:
        wanted = np.uint64(key_digest(key))
        first, last = (int(np.searchsorted(self._keys, wanted, side=side)) for side in ("left", "right"))
        for i in range(last - 1, first - 1, -1):
            file.seek(int(self._offsets[i]))
            row = dict(zip(self._columns, next(csv.reader(Lines(file), strict=True)), strict=True))
            if self._key_of(row) == key:
                return row
        return None


# ---------------------------------------------------------------- rows


def _located_rows(file: IO[bytes], name: str, needed: Sequence[str], problems: RowProblems) -> Iterator[tuple[int, int, dict[str, str]]]:
    """The rows with the lines and the offsets they begin at."""
    lines = Lines(file)
    reader = csv.reader(lines, strict=True)
    columns = _header(reader, name, needed)
    while True:
        line, offset = lines.number + 1, lines.offset
        try:
            values = next(reader)
        except StopIteration:
            return
        except (csv.Error, ValueError):
            problems.add(f"{name}, line {line}: not a row of CSV in UTF-8")
            continue
        if len(values) == len(columns):
            yield line, offset, dict(zip(columns, values, strict=True))
        elif values:
            problems.add(f"{name}, line {line}: not as many values as columns")


def _header(reader: Iterator[list[str]], name: str, needed: Sequence[str]) -> list[str]:
    try:
        columns = next(reader, [])
    except (csv.Error, ValueError) as error:
        raise DatasetError(f"{name} is not a CSV file in UTF-8", field="source") from error
    missing = [column for column in needed if column not in columns]
    if missing:
        raise DatasetError(f"{name} lacks the columns: {', '.join(missing)}", field="source")
    return columns
