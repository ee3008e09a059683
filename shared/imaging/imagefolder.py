"""Reads folders of pictures with a table beside them: metadata.csv or metadata.jsonl, as Hugging Face's imagefolder has it.

`file_name` names a picture from the table's own folder on, `text` is its caption; `patient_id` must say whose it is, because
splits are by patient. Labels are columns named as CheXpert's, or in JSON an object `labels` of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from shared.errors import DatasetError
from shared.imaging.cells import Cells, projections_of, view_of
from shared.imaging.clauses import LABELS
from shared.imaging.dicom_files import is_called_dicom
from shared.imaging.source_folder import SourceFolder
from shared.imaging.sources import RowProblems, SourceFilm, View, sound_films
from shared.imaging.tables import Lines, fingerprint_of, open_table, read_rows

TABLES: Final = ("metadata.csv", "metadata.jsonl")
NEEDED: Final = ("file_name", "patient_id")
COLUMNS: Final = (*NEEDED, "text", "impression", "report", "study_id", "view", "sex", "age", *LABELS)
"""The columns that are read; others are passed over."""


class ImageFolder:
    """The films of a folder whose view is asked for, in the table's order; films of a table without views are all taken."""

    def __init__(self, folder: Path, table: str | None = None, *, views: Sequence[View], roots: Sequence[Path] = ()) -> None:
        """Files must lie within `roots` (the folder itself, without any) after symlinks are followed."""
        self._folder = SourceFolder(folder, roots)
        self._table = self._folder.table(table or _table_in(folder))
        self._below = PurePosixPath(table or "").parent  # where file names are counted from
        self._views = views

    def fingerprint(self) -> str:
        """SHA-256 of the table."""
        return fingerprint_of([self._table])

    def films(self) -> Iterator[SourceFilm]:
        """Read row after row."""
        problems = RowProblems()
        rows = _read_json(self._table, problems) if ".jsonl" in self._table.suffixes else read_rows(self._table, NEEDED, problems)
        yield from sound_films(rows, lambda row: self._film(*row), problems, table=self._table.name, views=self._views)

    def _film(self, line: int, row: Mapping[str, Any]) -> SourceFilm | None:
        """The film of a row; None when it shows another view."""
        cells = Cells(row, f"{self._table.name}, line {line}")
        view = view_of(cells.text("view"))
        if "view" in row and projections_of(view).isdisjoint(self._views):
            return None
        named = cells.required("file_name")
        key = str(self._below / named)
        path = cells.image(self._folder.find(key), named)
        if is_called_dicom(path):
            from shared.imaging.dicom import refusals_of

            cells.take(f"{named}: {refusal}" for refusal in refusals_of(path))
        film = SourceFilm(
            line=line,
            key=key,
            path=path,
            patient=cells.required("patient_id"),
            study=cells.text("study_id"),
            view=view,
            sex=cells.sex("sex"),
            age=cells.age("age"),
            labels=_labels(row, cells),
            impression=cells.text("impression") or None,
            report=cells.text("report") or None,
            text=cells.text("text") or None,
        )
        cells.check()
        return film


def _table_in(folder: Path) -> str:
    """The one table of the folder; DatasetError without one, or with both."""
    found = [name for name in TABLES if (folder / name).is_file()]
    if len(found) != 1:
        raise DatasetError(f"the folder must hold one of {' and '.join(TABLES)}, not {len(found)}; name the table", field="source.metadata")
    return found[0]


def _labels(row: Mapping[str, Any], cells: Cells) -> dict[str, int | None]:
    """The labels of a row, from columns or from an object of their own."""
    nested = row.get("labels")
    if not isinstance(nested, dict):
        return {name: cells.label(name) for name in LABELS}
    unknown = sorted(set(nested) - set(LABELS))
    if unknown:
        cells.fault(f"labels must be among CheXpert's 14, not {', '.join(unknown[:3])}")
    inner = Cells(nested, cells.where)
    labels = {name: inner.label(name) for name in LABELS}
    cells.take(inner.faults)
    return labels


def _read_json(table: Path, problems: RowProblems) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with one on each line, with their lines; other lines become problems."""
    with open_table(table) as file:
        lines = Lines(file)
        while True:
            try:
                text = next(lines)
                row = json.loads(text) if text.strip() else {}
            except StopIteration:
                return
            except (ValueError, RecursionError):
                row = None
            where = f"{table.name}, line {lines.number}"
            if not isinstance(row, dict):
                problems.add(f"{where}: not a JSON object in UTF-8")
            elif row:
                yield lines.number, row
