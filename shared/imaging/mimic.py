"""Reads data sets in MIMIC-CXR-JPG's layout: pictures by patient and study, tables of metadata, splits and labels, reports as text files.

The table of metadata is read row after row. What is joined to it is packed: 22 bytes for a study's labels and 9 for a film's split,
or 8.4 megabytes for all of MIMIC-CXR-JPG 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from shared.errors import DatasetError
from shared.imaging.cells import Cells, projections_of, view_of
from shared.imaging.clauses import LABELS
from shared.imaging.packed_rows import PackedRows
from shared.imaging.report_sections import NO_REPORT, Report, read_report
from shared.imaging.source_folder import SourceFolder
from shared.imaging.sources import RowProblems, SourceFilm, View, sound_films
from shared.imaging.tables import fingerprint_of, read_rows

Labeller = Literal["chexpert", "negbio"]
SplitName = Literal["train", "validate", "test"]
SPLITS: Final[tuple[SplitName, ...]] = ("train", "validate", "test")

METADATA_COLUMNS: Final = ("dicom_id", "subject_id", "study_id", "ViewPosition")
SPLIT_COLUMNS: Final = ("dicom_id", "split")
LABEL_COLUMNS: Final = ("study_id", *LABELS)
MAX_REPORT_BYTES: Final = 100_000  # MIMIC's longest has some ten thousand
_NOT_MENTIONED: Final = 2  # beside 1, 0 and -1 in a byte
_NUMBER: Final = re.compile(r"\d{2,18}")
_FILM_NAME: Final = re.compile(r"[\w-]{1,100}")


class MimicFolder:
    """The films of a MIMIC-CXR-JPG folder whose view and split are asked for, in the order of the table of metadata."""

    def __init__(
        self,
        folder: Path,
        *,
        views: Sequence[View],
        labeller: Labeller = "chexpert",
        splits: Sequence[SplitName] = SPLITS,
        reports: Path | None = None,
        roots: Sequence[Path] = (),
    ) -> None:
        """`reports` is the folder that holds MIMIC-CXR's files/pXX/pSUBJECT/sSTUDY.txt; without it, none is read.

        Files must lie within `roots` (the folder itself, without any) after symlinks are followed.
        """
        self._folder = SourceFolder(folder, roots)
        self._reports = SourceFolder(reports, roots) if reports else None
        self._metadata, self._splits, self._labels = (self._table(name) for name in ("metadata", "split", labeller))
        self._views = views
        self._last_report = "", NO_REPORT
        self._split_codes = frozenset(SPLITS.index(name) for name in splits)

    def fingerprint(self) -> str:
        """SHA-256 over those of the three tables."""
        return fingerprint_of([self._metadata, self._splits, self._labels])

    def films(self) -> Iterator[SourceFilm]:
        """Read the small tables, then the metadata row after row."""
        problems = RowProblems()
        splits = _read_splits(self._splits, problems)
        labels = _read_labels(self._labels, problems)
        rows = read_rows(self._metadata, METADATA_COLUMNS, problems)
        yield from sound_films(rows, lambda row: self._film(*row, splits, labels), problems, table=self._metadata.name, views=self._views)

    def _table(self, kind: str) -> Path:
        """The table of this kind, packed or not, whichever version it is of."""
        found = sorted(path for ending in ("csv", "csv.gz") for path in self._folder.path.glob(f"mimic-cxr-*-{kind}.{ending}"))
        if not found:
            raise DatasetError(f"mimic-cxr-2.0.0-{kind}.csv is missing from the data set's folder", field="source.uri")
        return self._folder.inside(found[0], found[0].name)

    def _film(self, line: int, row: Mapping[str, str], splits: PackedRows, labels: PackedRows) -> SourceFilm | None:
        """The film of a row; None when it shows another view or is of another split."""
        cells = Cells(row, f"{self._metadata.name}, line {line}")
        view = view_of(cells.text("ViewPosition"))
        name, subject, study = (cells.text(column) for column in METADATA_COLUMNS[:3])
        split = splits.find(name)
        if projections_of(view).isdisjoint(self._views) or (split is not None and split[0] not in self._split_codes):
            return None
        if split is None:
            cells.fault(f"{self._splits.name} has no such film")
        if not _FILM_NAME.fullmatch(name):
            cells.fault("column dicom_id must be letters, digits and '-'")
        if not (_NUMBER.fullmatch(subject) and _NUMBER.fullmatch(study)):
            cells.fault("columns subject_id and study_id must be numbers")
        cells.check()
        key = f"files/p{subject[:2]}/p{subject}/s{study}/{name}.jpg"
        path = cells.image(self._folder.find(key), f"{name}.jpg")
        report = self._report(f"files/p{subject[:2]}/p{subject}/s{study}.txt", cells)
        cells.check()
        return SourceFilm(
            line=line,
            key=key,
            path=path,
            patient=f"p{subject}",
            study=f"s{study}",
            view=view,
            sex="Unknown",  # sex and age are no part of MIMIC-CXR
            age=None,
            labels=_unpacked(labels.find(study)),
            impression=report.impression,
            report=report.text,
        )

    def _report(self, name: str, cells: Cells) -> Report:
        """The report of a study, which its films share; the last one is kept, since they follow each other."""
        if self._reports is None:
            return NO_REPORT
        if name != self._last_report[0]:
            self._last_report = name, _read_report(self._reports.find(name), cells)
        return self._last_report[1]


# ---------------------------------------------------------------- joined tables


def _read_splits(table: Path, problems: RowProblems) -> PackedRows:
    """Which of the set's own splits each film is in."""

    def code_of(cells: Cells) -> list[int]:
        named = cells.text("split")
        if named not in SPLITS:
            cells.fault("column split must be train, validate or test")
            return []
        return [SPLITS.index(named)]

    return PackedRows(_sound(table, SPLIT_COLUMNS, code_of, problems), width=1)


def _read_labels(table: Path, problems: RowProblems) -> PackedRows:
    """The labels of each study."""

    def codes_of(cells: Cells) -> list[int]:
        values = [cells.label(name) for name in LABELS]
        return [_NOT_MENTIONED if value is None else value for value in values]

    return PackedRows(_sound(table, LABEL_COLUMNS, codes_of, problems), width=len(LABELS))


def _sound(
    table: Path, columns: Sequence[str], codes_of: Callable[[Cells], list[int]], problems: RowProblems
) -> Iterator[tuple[str, list[int]]]:
    """The rows of a table as a key, which its first column holds, and numbers; malformed rows become problems."""
    for line, row in read_rows(table, columns, problems):
        cells = Cells(row, f"{table.name}, line {line}")
        codes = codes_of(cells)
        key = cells.required(columns[0])
        try:
            cells.check()
        except DatasetError as error:
            problems.add(str(error))
        else:
            yield key, codes


def _unpacked(codes: Sequence[int] | None) -> dict[str, int | None]:
    """Labels by name; nothing is mentioned of a study without labels."""
    if codes is None:
        return dict.fromkeys(LABELS)
    return {name: None if code == _NOT_MENTIONED else code for name, code in zip(LABELS, codes, strict=True)}


def _read_report(path: Path | None, cells: Cells) -> Report:
    if path is None:
        return NO_REPORT
    with path.open("rb") as file:
        data = file.read(MAX_REPORT_BYTES + 1)
    text = data.decode("utf-8-sig", errors="replace")
    if len(data) > MAX_REPORT_BYTES or "\ufffd" in text:
        cells.fault(f"the study's report is not text in UTF-8 of at most {MAX_REPORT_BYTES} bytes")
        return NO_REPORT
    return read_report(text)
