"""Reads data sets in CheXpert's layout: its CSV with 14 labels, its folders by patient and study, reports as CheXpert Plus has them.

Pictures become square: scaled so that the short side fits, then cropped at the centre. Bars would be learnt by a model, and
stretching would change the heart's width; what the crop takes from a radiograph's long side is mostly arms and collimation.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.errors import DatasetError, ForbiddenError
from shared.imaging.clauses import LABELS
from shared.imaging.png import DECODE_ERRORS, grey_pixels

FACT_COLUMNS: Final = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
COLUMNS: Final = (*FACT_COLUMNS, *LABELS)
"""The columns of CheXpert's train.csv, in its order."""

REPORT_PATH: Final = "path_to_image"
REPORT_IMPRESSION: Final = "section_impression"

MAX_SOURCE_PIXELS: Final = 64_000_000  # a full-size CheXpert film has about 10 million
MAX_AGE: Final = 120
DECODING_THREADS: Final = 4
_VALUES: Final[Mapping[str, int | None]] = {"": None, "1.0": 1, "0.0": 0, "-1.0": -1, "1": 1, "0": 0, "-1": -1}
_FORMATS: Final = ("JPEG", "PNG")
_FILM_PATH: Final = re.compile(r"(?:^|/)(patient\w+)/(study\w+)/[^/]+$")


@dataclass(frozen=True, kw_only=True)
class SourceFilm:
    """One row of the CSV; `line` is where it ends in the file, `key` its path below the data set's folder."""

    line: int
    key: str
    path: Path
    patient: str
    study: str
    view: str
    sex: str
    age: int | None
    labels: Mapping[str, int | None]
    impression: str | None


def read_chexpert(
    folder: Path,
    csv_name: str,
    *,
    views: Sequence[str],
    reports_csv: str | None = None,
    roots: Sequence[Path] = (),
) -> list[SourceFilm]:
    """Read the films of a CheXpert folder whose view is asked for ("frontal", "lateral", "AP", "PA"), in the CSV's order.

    Files are checked to exist, and to lie within `roots` (the folder itself, without any) after symlinks are followed.
    """
    if not folder.is_dir():
        raise DatasetError(f"the folder {folder} does not exist", field="source.uri")
    allowed = [root.resolve() for root in roots] or [folder.resolve()]
    table = _inside(folder / csv_name, allowed, csv_name)
    impressions = _read_impressions(_inside(folder / reports_csv, allowed, reports_csv)) if reports_csv else {}
    films = []
    for line, row in _read_rows(table, COLUMNS):
        where = f"{table.name}, line {line}"
        projections = _projections(row, where)
        if projections.isdisjoint(views):
            continue
        films.append(_film(folder, row, line, where, projections, impressions, allowed))
    if not films:
        raise DatasetError(f"{table.name} names no film of the views asked for ({', '.join(views)})", field="views")
    return films


def read_pictures(films: Iterable[SourceFilm], image_size: int) -> Iterator[NDArray[np.uint8]]:
    """Decode the films in parallel, in order, as squares of `image_size`; few wait in memory at any time."""
    with ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="films") as pool:
        waiting: deque[Future[NDArray[np.uint8]]] = deque()
        source = iter(films)
        try:
            for film in itertools.islice(source, 4 * DECODING_THREADS):
                waiting.append(pool.submit(read_picture, film, image_size))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(read_picture, film, image_size) for film in itertools.islice(source, 1))
        finally:
            for future in waiting:
                future.cancel()


def read_picture(film: SourceFilm, image_size: int) -> NDArray[np.uint8]:
    """Decode one film as a grey square of `image_size`."""
    try:
        with Image.open(film.path, formats=_FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_SOURCE_PIXELS:
                raise DatasetError(f"line {film.line}: {film.key} has {width}x{height} pixels, the limit is {MAX_SOURCE_PIXELS} in all")
            picture.draft("L", (2 * image_size, 2 * image_size))  # JPEG only: unpacks at a fraction of the size where that is enough
            grey = Image.fromarray(grey_pixels(picture))
    except DECODE_ERRORS as error:
        raise DatasetError(f"line {film.line}: {film.key} is not a readable JPEG or PNG picture") from error
    short = min(grey.size)
    left, top = (grey.width - short) / 2, (grey.height - short) / 2
    square = grey.resize((image_size, image_size), Image.Resampling.LANCZOS, box=(left, top, left + short, top + short))
    return np.asarray(square)


def key_of(path: str) -> str:
    """The part of a film's path that CheXpert and CheXpert Plus share: from train/ or valid/ on."""
    parts = PurePosixPath(path.strip()).parts
    start = next((i for i, part in enumerate(parts) if part in {"train", "valid", "test"}), 0)
    return "/".join(parts[start:])


# ---------------------------------------------------------------- tables


def _read_rows(table: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV with the lines they end on; a byte-order mark and CRLF are fine."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            if missing:
                raise DatasetError(f"{table.name} lacks the columns: {', '.join(missing)}", field="source.csv")
            for row in reader:
                if None in row or None in row.values():
                    raise DatasetError(f"{table.name}, line {reader.line_num}: not as many values as columns")
                yield reader.line_num, row
    except FileNotFoundError as error:
        raise DatasetError(f"{table.name} is missing from the data set's folder", field="source.csv") from error
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
        raise DatasetError(f"{table.name} is not a CSV file in UTF-8", field="source.csv") from error


def _read_impressions(table: Path) -> dict[str, str]:
    return {key_of(row[REPORT_PATH]): row[REPORT_IMPRESSION] for _, row in _read_rows(table, (REPORT_PATH, REPORT_IMPRESSION))}


def _film(
    folder: Path,
    row: Mapping[str, str],
    line: int,
    where: str,
    projections: frozenset[str],
    impressions: Mapping[str, str],
    allowed: Sequence[Path],
) -> SourceFilm:
    named = row["Path"].strip()
    match = _FILM_PATH.search(named)
    if match is None:
        raise DatasetError(f"{where}: column Path is not of the form …/patientNNNNN/studyK/viewM_frontal.jpg")
    impression = impressions.get(key_of(named), "").strip()
    return SourceFilm(
        line=line,
        key=key_of(named),
        path=_locate(folder, named, where, allowed),
        patient=match[1],
        study=match[2],
        view=_view(projections),
        sex=_sex(row, where),
        age=_age(row, where),
        labels={name: _label(row, name, where) for name in LABELS},
        impression=impression or None,
    )


def _locate(folder: Path, named: str, where: str, allowed: Sequence[Path]) -> Path:
    """The file of a row: below the folder, or below it without the first component, which is CheXpert's own folder name."""
    parts = PurePosixPath(named).parts
    for candidate in (folder.joinpath(*parts[1:]), folder.joinpath(*parts)):
        if not PurePosixPath(named).is_absolute() and ".." not in parts and candidate.is_file():
            return _inside(candidate, allowed, where)
    raise DatasetError(f"{where}: the image {named} is missing from the data set's folder")


def _inside(path: Path, allowed: Sequence[Path], name: str) -> Path:
    resolved = path.resolve()
    if not any(resolved.is_relative_to(root) for root in allowed):
        raise ForbiddenError(f"{name} lies outside the folders that data may be imported from")
    return resolved


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
