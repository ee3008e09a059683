"""Writes a cohort of procedural radiographs to disk as CheXpert lays its films out, with reports as CheXpert Plus has them."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from shared.errors import DatasetError
from shared.imaging import clauses, phantom, prompts
from shared.imaging.chexpert import COLUMNS, REPORT_IMPRESSION, REPORT_PATH
from shared.imaging.clauses import LABELS, NO_FINDING
from shared.imaging.phantom import Film, draw, make_cohort
from shared.imaging.prompts import compose_impression

DATASET_FOLDER: Final = "CheXpert-v1.0-small"
LABELS_CSV: Final = "train.csv"
REPORTS_CSV: Final = "reports.csv"
MARKER: Final = "phantom.json"  # says for what the folder was begun and, written last, that it is complete
JPEG_QUALITY: Final = 95
WRITING_STREAM: Final = 7  # parts the random numbers of labels and wordings from those that drew the films

# CheXpert's hierarchy: a label that follows from its children.
PARENTS: Final = {
    "Enlarged Cardiomediastinum": ("Cardiomegaly",),
    "Lung Opacity": ("Lung Lesion", "Edema", "Consolidation", "Atelectasis"),
}
MENTIONED_ABSENT: Final = ("Cardiomegaly", "Edema", "Consolidation", "Pneumothorax", "Pleural Effusion")
ABSENT_SHARE: Final = 0.25  # reports that deny one of these
UNCERTAIN_SHARE: Final = 0.06  # reports that leave one open
PNEUMONIA_SHARE: Final = 0.5  # consolidations that might be pneumonia

Progress = Callable[[int, int], None]
"""Told after each film: how many are written, of how many. May raise to stop."""


def write_phantom_chexpert(folder: Path, *, patients: int, seed: int, size: int, on_progress: Progress) -> Path:
    """Write the cohort below `folder` and return the data set's own folder; a complete one of the same recipe is left as it is.

    A folder that was begun and not finished is written anew; one that this function did not begin is refused.
    """
    target = folder / DATASET_FOLDER
    recipe = _recipe(patients, seed, size)
    begun = _read_marker(target)
    if begun == recipe | {"complete": True}:
        return target
    if begun is None and target.exists() and any(target.iterdir()):
        raise DatasetError(f"the folder {target} exists and was not written by the phantom; name another one", field="source.uri")
    _clear(target)
    _write_marker(target, recipe | {"complete": False})
    films = make_cohort(patients, seed)
    for count, film in enumerate(films, start=1):
        _write_picture(target.parent / _path_of(film), film, size)
        on_progress(count, len(films))
    _write_table(target / LABELS_CSV, COLUMNS, [_label_row(film, seed) for film in films])
    _write_table(target / REPORTS_CSV, (REPORT_PATH, REPORT_IMPRESSION), [_report_row(film, seed) for film in films])
    _write_marker(target, recipe | {"complete": True})
    return target


# ---------------------------------------------------------------- rows


def _path_of(film: Film) -> str:
    kind = "lateral" if film.view == "lateral" else "frontal"
    return f"{DATASET_FOLDER}/train/patient{film.patient.id:05}/study{film.study}/view1_{kind}.jpg"


def _label_row(film: Film, seed: int) -> list[str]:
    lateral = film.view == "lateral"
    facts = [_path_of(film), film.patient.sex, str(film.patient.age), "Lateral" if lateral else "Frontal", "" if lateral else film.view]
    labels = _labels(film, np.random.default_rng([seed, film.accession, WRITING_STREAM]))
    return facts + [labels.get(name, "") for name in LABELS]


def _labels(film: Film, rng: np.random.Generator) -> dict[str, str]:
    """What CheXpert's labeller would have read: findings and their parents, some denials, some doubts, blanks for the rest."""
    labels = dict.fromkeys(film.findings, "1.0")
    mentions = rng.random((2, len(MENTIONED_ABSENT)))
    for i, name in enumerate(MENTIONED_ABSENT):
        if name not in film.findings:
            if mentions[0, i] < ABSENT_SHARE:
                labels[name] = "0.0"
            elif mentions[1, i] < UNCERTAIN_SHARE and not _is_normal(film):
                labels[name] = "-1.0"
    if "Consolidation" in film.findings and rng.random() < PNEUMONIA_SHARE:
        labels["Pneumonia"] = "-1.0"
    for parent, children in PARENTS.items():
        if any(child in film.findings for child in children):
            labels[parent] = "1.0"
    if _is_normal(film):
        labels[NO_FINDING] = "1.0"
    return labels


def _is_normal(film: Film) -> bool:
    """CheXpert's No Finding: nothing but support devices."""
    return not set(film.findings) - {"Support Devices"}


def _report_row(film: Film, seed: int) -> list[str]:
    text = compose_impression(
        view=film.view,
        sex=film.patient.sex,
        age=film.patient.age,
        findings=film.findings,
        normal=_is_normal(film),
        exam=film.accession,
        rng=np.random.default_rng([seed, film.accession, WRITING_STREAM + 1]),
    )
    return [_path_of(film).removeprefix(f"{DATASET_FOLDER}/"), text]


# ---------------------------------------------------------------- files


def _write_picture(path: Path, film: Film, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw(film, size)).save(path, format="JPEG", quality=JPEG_QUALITY)


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def _recipe(patients: int, seed: int, size: int) -> dict[str, object]:
    """What decides every byte of the folder, the code that draws and words it included: an older drawing is not taken for this one."""
    code = hashlib.sha256()
    for module in (phantom.__file__, clauses.__file__, prompts.__file__, __file__):
        code.update(Path(module).read_bytes())
    return {"patients": patients, "seed": seed, "size": size, "code": code.hexdigest()}


def _read_marker(target: Path) -> dict[str, object] | None:
    path = target / MARKER
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        return {}  # killed while it was written: begun, of no known recipe


def _write_marker(target: Path, content: dict[str, object]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    (target / MARKER).write_text(json.dumps(content, indent=2), encoding="utf-8")


def _clear(target: Path) -> None:
    """Remove what a former run wrote, and nothing else; the marker stays until it is written over."""
    if (target / "train").exists():
        shutil.rmtree(target / "train")
    for name in (LABELS_CSV, REPORTS_CSV):
        (target / name).unlink(missing_ok=True)
