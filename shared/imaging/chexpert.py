"""Reads data sets in CheXpert's layout: its CSV with 14 labels, its folders by patient and study, reports as CheXpert Plus has them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Final

from shared.errors import DatasetError
from shared.imaging.clauses import LABELS
from shared.imaging.source_folder import SourceFolder, is_plain
from shared.imaging.sources import RowProblems, SourceFilm, View
from shared.imaging.tables import RowIndex, fingerprint_of, read_rows

FACT_COLUMNS: Final = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
COLUMNS: Final = (*FACT_COLUMNS, *LABELS)
"""The columns of CheXpert's train.csv, in its order."""

REPORT_PATH: Final = "path_to_image"
REPORT_IMPRESSION: Final = "section_impression"
REPORT_TEXT: Final = "report"  # CheXpert Plus has it, a table of impressions alone need not

MAX_AGE: Final = 120
_VALUES: Final[Mapping[str, int | None]] = {"": None, "1.0": 1, "0.0": 0, "-1.0": -1, "1": 1, "0": 0, "-1": -1}
_FILM_PATH: Final = re.compile(r"(?:^|/)(patient\w+)/(study\w+)/[^/]+$")


class CheXpertFolder:
    """The films of a CheXpert folder whose view is asked for, in the CSV's order."""

    def __init__(
        self, folder: Path, csv_name: str, *, views: Sequence[View], reports_csv: str | None = None, roots: Sequence[Path] = ()
    ) -> None:
        """Files must lie within `roots` (the folder itself, without any) after symlinks are followed."""
        self._folder = SourceFolder(folder, roots)
        self._table = self._folder.table(csv_name)
        self._reports = self._folder.table(reports_csv) if reports_csv else None
        self._views = views

    def fingerprint(self) -> str:
        """SHA-256 of the table of films, and of that of reports where there is one."""
        return fingerprint_of([self._table, *([self._reports] if self._reports else [])])

    def films(self) -> Iterator[SourceFilm]:
        """Read row after row; reports are looked up on the way."""
        problems = RowProblems()
        found = False
        with ExitStack() as stack:
            find_report = self._open_reports(stack, problems)
            for line, row in read_rows(self._table, COLUMNS, problems):
                try:
                    film = self._film(row, line, find_report)
                except DatasetError as error:
                    problems.add(str(error))
                    continue
                if film is not None:
                    found = True
                    yield film
        problems.check()
        if not found:
            raise DatasetError(f"{self._table.name} names no film of the views asked for ({', '.join(self._views)})", field="views")

    def _open_reports(self, stack: ExitStack, problems: RowProblems) -> Callable[[str], dict[str, str] | None]:
        if self._reports is None:
            return lambda _key: None
        index = RowIndex(self._reports, (REPORT_PATH, REPORT_IMPRESSION), lambda row: key_of(row[REPORT_PATH]), problems)
        return stack.enter_context(index.open())

    def _film(self, row: Mapping[str, str], line: int, find_report: Callable[[str], dict[str, str] | None]) -> SourceFilm | None:
        """The film of a row; None when it shows another view."""
        where = f"{self._table.name}, line {line}"
        projections = _projections(row, where)
        if projections.isdisjoint(self._views):
            return None
        named = row["Path"].strip()
        match = _FILM_PATH.search(named)
        if match is None:
            raise DatasetError(f"{where}: column Path is not of the form …/patientNNNNN/studyK/viewM_frontal.jpg")
        report = find_report(key_of(named)) or {}
        return SourceFilm(
            line=line,
            key=key_of(named),
            path=self._locate(named, where),
            patient=match[1],
            study=match[2],
            view=_view(projections),
            sex=_sex(row, where),
            age=_age(row, where),
            labels={name: _label(row, name, where) for name in LABELS},
            impression=report.get(REPORT_IMPRESSION, "").strip() or None,
            report=report.get(REPORT_TEXT, "").strip() or None,
        )

    def _locate(self, named: str, where: str) -> Path:
        """The file of a row: below the folder, or below it without the first component, which is CheXpert's own folder name."""
        below = "/".join(PurePosixPath(named).parts[1:])
        return self._folder.find(*([below, named] if is_plain(named) else [named]), where=where)


def key_of(path: str) -> str:
    """The part of a film's path that CheXpert and CheXpert Plus share: from train/ or valid/ on."""
    parts = PurePosixPath(path.strip()).parts
    start = next((i for i, part in enumerate(parts) if part in {"train", "valid", "test"}), 0)
    return "/".join(parts[start:])


# ---------------------------------------------------------------- values


def _projections(row: Mapping[str, str], where: str) -> frozenset[str]:
    """What a film counts as: frontal or lateral, and its AP/PA value (LL and RL occur among frontals; laterals have none)."""
    orientation = row["Frontal/Lateral"].strip().lower()
    if orientation not in {"frontal", "lateral"}:
        raise DatasetError(f"{where}: column Frontal/Lateral must be Frontal or Lateral")
    direction = row["AP/PA"].strip()
    if direction not in {"AP", "PA", "LL", "RL", ""}:
        raise DatasetError(f"{where}: column AP/PA must be AP, PA, LL, RL or blank")
    return frozenset({orientation, direction} - {""})


def _view(projections: frozenset[str]) -> str:
    return "lateral" if "lateral" in projections else next(iter(projections - {"frontal"}), "frontal")


def _sex(row: Mapping[str, str], where: str) -> str:
    sex = row["Sex"].strip() or "Unknown"
    if sex not in {"Male", "Female", "Unknown"}:
        raise DatasetError(f"{where}: column Sex must be Male, Female or Unknown")
    return sex


def _age(row: Mapping[str, str], where: str) -> int | None:
    """Years; CheXpert writes 0 where the age is missing, and 90 for everyone older."""
    text = row["Age"].strip()
    try:
        age = float(text or 0)
    except ValueError as error:
        raise DatasetError(f"{where}: column Age must be a number") from error
    if not 0 <= age <= MAX_AGE:
        raise DatasetError(f"{where}: column Age must be from 0 to {MAX_AGE}")
    return int(age) or None


def _label(row: Mapping[str, str], name: str, where: str) -> int | None:
    text = row[name].strip()
    if text not in _VALUES:
        raise DatasetError(f"{where}: column {name} must be 1.0, 0.0, -1.0 or blank")
    return _VALUES[text]
