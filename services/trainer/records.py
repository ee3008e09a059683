"""A data set's records: one film after another, page by page, and their pictures; only the parts that they lie in are read."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from shared.catalog import Catalog, DatasetManifest, DatasetPart
from shared.errors import IntegrityError, NotFoundError
from shared.imaging.films import Film, FilmFacts, FilmPart, FilmTable
from shared.imaging.splits import Split

PARTS_HELD: Final = 64  # of each the footer and two bytes a film: some ten megabytes in all


class Records:
    """Reads records of committed data sets; safe to share between threads."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[str, str], FilmPart] = OrderedDict()

    def page(self, dataset: DatasetManifest, *, split: Split | None, after: int, size: int) -> tuple[list[FilmFacts], int | None]:
        """Up to `size` records behind number `after`, in order; and the number to go on after, None at the end."""
        splits = () if split is None else (split,)
        shown: list[FilmFacts] = []
        for first, part in self._parts(dataset):
            if first + part.rows <= after + 1 or not _count(part, splits):
                continue
            if len(shown) == size:
                return shown, shown[-1].record
            films = self._open(dataset, part, first)
            behind = [record for record in films.positions(splits).tolist() if record > after]
            taken = behind[: size - len(shown)]
            shown += films.facts(taken)
            if len(behind) > len(taken):
                return shown, shown[-1].record
        return shown, None

    def film(self, dataset: DatasetManifest, record: int) -> Film:
        """One film with its picture; NotFoundError when the data set has no such record."""
        films = self._films_with(dataset, record)
        film = films.film(record)
        if hashlib.sha256(film.png).hexdigest() != film.sha256:
            raise IntegrityError(f"The picture of record {record} of dataset {dataset.id} is not what was committed.")
        return film

    def _films_with(self, dataset: DatasetManifest, record: int) -> FilmPart:
        total = 0
        for first, part in self._parts(dataset):
            total = first + part.rows
            if first <= record < total:
                return self._open(dataset, part, first)
        raise NotFoundError(f"record {record} does not exist; the data set has records 0 to {total - 1}")

    def _parts(self, dataset: DatasetManifest) -> list[tuple[int, DatasetPart]]:
        """The parts with their first records; data sets of version 0.1 do not name them, and are fetched to be counted."""
        parts: Sequence[DatasetPart] = dataset.parts or self._counted(dataset)
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + part.rows)
        return list(zip(starts, parts, strict=False))

    def _counted(self, dataset: DatasetManifest) -> list[DatasetPart]:
        return [
            DatasetPart(path=part.name, rows=part.end - part.first, splits=dataset.counts)
            for part in FilmTable(self._catalog.fetch(dataset)).parts
        ]

    def _open(self, dataset: DatasetManifest, part: DatasetPart, first: int) -> FilmPart:
        """A part, fetched alone and verified when it is not here yet."""
        key = (dataset.id, part.path)
        with self._lock:
            films = self._held.get(key)
            if films is None:
                films = self._held[key] = FilmPart(self._catalog.fetch_file(dataset, part.path), first)
            self._held.move_to_end(key)
            while len(self._held) > PARTS_HELD:
                self._held.popitem(last=False)
            return films


def _count(part: DatasetPart, splits: Sequence[Split]) -> int:
    return sum(part.splits.get(split, 0) for split in splits) if splits else part.rows
