"""Reads data sets in CheXpert's layout: its CSV with 14 labels, its folders by patient and study, reports as CheXpert Plus has them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Final

from shared.imaging.cells import Cells
from shared.imaging.clauses import LABELS
from shared.imaging.source_folder import SourceFolder, is_plain
from shared.imaging.sources import RowProblems, SourceFilm, View, sound_films
from shared.imaging.tables import RowIndex, fingerprint_of, read_rows

FACT_COLUMNS: Final = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
COLUMNS: Final = (*FACT_COLUMNS, *LABELS)
"""The columns of CheXpert's train.csv, in its order."""

REPORT_PATH: Final = "path_to_image"
REPORT_IMPRESSION: Final = "section_impression"
REPORT_TEXT: Final = "report"  # CheXpert Plus has it, a table of impressions alone need not

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
        with ExitStack() as stack:
            find_report = self._open_reports(stack, problems)
            rows = read_rows(self._table, COLUMNS, problems)
            yield from sound_films(rows, lambda row: self._film(*row, find_report), problems, table=self._table.name, views=self._views)

    def _open_reports(self, stack: ExitStack, problems: RowProblems) -> Callable[[str], dict[str, str] | None]:
        if self._reports is None:
            return lambda _key: None
        index = RowIndex(self._reports, (REPORT_PATH, REPORT_IMPRESSION), lambda row: key_of(row[REPORT_PATH]), problems)
        return stack.enter_context(index.open())

    def _film(self, line: int, row: Mapping[str, str], find_report: Callable[[str], dict[str, str] | None]) -> SourceFilm | None:
        """The film of a row; None when it shows another view."""
        cells = Cells(row, f"{self._table.name}, line {line}")
        projections = _projections(cells)
        if projections and projections.isdisjoint(self._views):
            return None
        named = cells.text("Path")
        match = _FILM_PATH.search(named)
        patient, study = match.groups() if match else ("", "")
        if not match:
            cells.fault("column Path must be of the form …/patientNNNNN/studyK/viewM_frontal.jpg")
        sex, age = cells.sex("Sex"), cells.age("Age")
        labels = {name: cells.label(name) for name in LABELS}
        path = cells.image(self._locate(named), named)
        cells.check()
        report = find_report(key_of(named)) or {}
        return SourceFilm(
            line=line,
            key=key_of(named),
            path=path,
            patient=patient,
            study=study,
            view=_view(projections),
            sex=sex,
            age=age or None,  # CheXpert writes 0 where the age is missing, and 90 for everyone older
            labels=labels,
            impression=report.get(REPORT_IMPRESSION, "").strip() or None,
            report=report.get(REPORT_TEXT, "").strip() or None,
        )

    def _locate(self, named: str) -> Path | None:
        """The file of a row: below the folder without the first component, which is CheXpert's own folder name, or with it."""
        return self._folder.find("/".join(PurePosixPath(named).parts[1:]), named) if is_plain(named) else None


def key_of(path: str) -> str:
    """The part of a film's path that CheXpert and CheXpert Plus share: from train/ or valid/ on."""
    parts = PurePosixPath(path.strip()).parts
    start = next((i for i, part in enumerate(parts) if part in {"train", "valid", "test"}), 0)
    return "/".join(parts[start:])


# ---------------------------------------------------------------- values


def _projections(cells: Cells) -> frozenset[str]:
    """What a film counts as: frontal or lateral, and its AP/PA value (LL and RL occur among frontals; laterals have none)."""
    orientation, direction = cells.text("Frontal/Lateral").lower(), cells.text("AP/PA")
    if orientation not in {"frontal", "lateral"}:
        cells.fault("column Frontal/Lateral must be Frontal or Lateral")
        return frozenset()
    if direction not in {"AP", "PA", "LL", "RL", ""}:
        cells.fault("column AP/PA must be AP, PA, LL, RL or blank")
    return frozenset({orientation, direction} - {""})


def _view(projections: frozenset[str]) -> str:
    return "lateral" if "lateral" in projections else next(iter(projections - {"frontal"}), "frontal")
