"""A data set's records: one film after another, page by page, and their pictures."""

from __future__ import annotations

import bisect
import hashlib
import threading
from collections import OrderedDict
from typing import Final

from shared.catalog import Catalog, DatasetManifest
from shared.errors import IntegrityError
from shared.imaging.films import Film, FilmFacts, FilmTable
from shared.imaging.splits import Split

TABLES_HELD: Final = 2  # a table holds the facts of all its films in memory


class Records:
    """Reads records of committed data sets; safe to share between threads."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._tables: OrderedDict[str, FilmTable] = OrderedDict()

    def page(self, dataset: DatasetManifest, *, split: Split | None, after: int, size: int) -> tuple[list[FilmFacts], int | None]:
        """Up to `size` records behind number `after`, in order; and the number to go on after, None at the end."""
        table = self._table(dataset)
        wanted = table.select(split) if split is not None else table.select()
        start = bisect.bisect_right(wanted, after)
        shown = wanted[start : start + size]
        more = start + size < len(wanted)
        return [table.facts[record] for record in shown], shown[-1] if more else None

    def film(self, dataset: DatasetManifest, record: int) -> Film:
        """One film with its picture; NotFoundError when the data set has no such record."""
        film = self._table(dataset).film(record)
        if hashlib.sha256(film.png).hexdigest() != film.sha256:
            raise IntegrityError(f"The picture of record {record} of dataset {dataset.id} is not what was committed.")
        return film

    def _table(self, dataset: DatasetManifest) -> FilmTable:
        with self._lock:
            table = self._tables.get(dataset.id)
            if table is None:
                while len(self._tables) >= TABLES_HELD:
                    self._tables.popitem(last=False)
                table = FilmTable(self._catalog.fetch(dataset))
            self._tables[dataset.id] = table
            self._tables.move_to_end(dataset.id)
            return table
