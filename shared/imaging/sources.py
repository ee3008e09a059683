"""What every reader of films gives: films in the order of the source's table, its fingerprint, and a list of what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol, TypeVar

from shared.errors import DatasetError

RowT = TypeVar("RowT")

MAX_SOURCE_PIXELS: Final = 64_000_000  # a full-size film has some ten to twenty million
PROBLEMS_TOLD: Final = 20  # of thousands of malformed rows, the first show what is wrong with all

View = Literal["frontal", "lateral", "AP", "PA", "other"]
"""What a film may be asked for by: its orientation or projection; other are films whose source states neither, or a rarer one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFilm:
    """One film of a source, undecoded; `line` is where its row ends in the table, `key` names it for good: its path in the data set."""

    line: int
    key: str
    path: Path
    patient: str
    study: str
    view: str
    sex: str
    age: int | None
    labels: Mapping[str, int | None]
    impression: str | None = None
    report: str | None = None
    text: str | None = None
    burned_in: bool = False  # whether the source itself says that something is written in the picture

    @property
    def place(self) -> str:
        """Where to look when the film is unsound; folders without a table have no lines."""
        return f"line {self.line}: {self.key}" if self.line else self.key


class Source(Protocol):
    """A data set to be read."""

    def films(self) -> Iterator[SourceFilm]:
        """Read the films in the source's order, few in memory at a time; may be called again.

        Malformed rows are passed over until the end, where one DatasetError tells of all: whoever writes exhausts one pass before.
        """
        ...

    def fingerprint(self) -> str:
        """SHA-256 of the tables that the films come from."""
        ...


class RowProblems:
    """Collects what is wrong with a source: the first problems in full, the others as a number."""

    def __init__(self) -> None:
        self._told: list[str] = []
        self._count = 0
        self._field: str | None = None

    def __len__(self) -> int:
        return self._count

    def add(self, message: str, *, field: str | None = None) -> None:
        """Take note of one problem; the message names the row, and holds nothing of a patient."""
        if self._count < PROBLEMS_TOLD:
            self._told.append(message)
            self._field = self._field or field
        self._count += 1

    def check(self) -> None:
        """Raise one DatasetError that tells of all problems; without any, do nothing."""
        if not self._count:
            return
        if self._count == 1:
            raise DatasetError(self._told[0], field=self._field)
        listed = "\n".join(self._told)
        more = f"\nand {self._count - len(self._told)} more" if self._count > len(self._told) else ""
        raise DatasetError(f"{self._count} rows or films cannot be used:\n{listed}{more}", field=self._field)


def sound_films(
    rows: Iterable[RowT], film_of: Callable[[RowT], SourceFilm | None], problems: RowProblems, *, table: str, views: Sequence[View]
) -> Iterator[SourceFilm]:
    """The films of those rows that have one; at the end one DatasetError tells of the others, or that there was no film at all."""
    found = False
    for row in rows:
        try:
            film = film_of(row)
        except DatasetError as error:
            problems.add(str(error))
            continue
        if film is not None:
            found = True
            yield film
    problems.check()
    if not found:
        raise DatasetError(f"{table} names no film of the views asked for ({', '.join(views)})", field="views")
