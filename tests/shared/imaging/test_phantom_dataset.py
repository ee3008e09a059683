"""The phantom on disk: CheXpert's layout, its quirks, and what happens to a folder that is there already."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from shared.errors import DatasetError, JobCancelledError
from shared.imaging.chexpert import COLUMNS, CheXpertFolder
from shared.imaging.clauses import LABELS, NO_FINDING
from shared.imaging.phantom import draw, make_cohort
from shared.imaging.phantom_dataset import MARKER, write_phantom_chexpert
from shared.imaging.pixels import read_picture
from shared.imaging.prompts import parse_prompt


def write(folder: Path, *, patients: int = 12, seed: int = 0, written: list[int] | None = None) -> Path:
    progress = written if written is not None else []
    return write_phantom_chexpert(folder, patients=patients, seed=seed, size=32, on_progress=lambda step, _total: progress.append(step))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("phantom"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    folder = write(tmp_path_factory.mktemp("many"), patients=60)
    with (folder / "train.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_columns_are_chexperts(dataset: Path) -> None:
    header = (dataset / "train.csv").read_text().splitlines()[0]
    assert dataset.name == "CheXpert-v1.0-small"
    assert header.split(",") == list(COLUMNS)
    assert len(COLUMNS) == 19


def test_reader_sees_the_cohort(dataset: Path) -> None:
    cohort = make_cohort(12, 0)
    films = list(CheXpertFolder(dataset, "train.csv", views=["frontal", "lateral"], reports_csv="reports.csv").films())
    assert len(films) == len(cohort)
    for film, drawn in zip(films, cohort, strict=True):
        assert (film.patient, film.study) == (f"patient{drawn.patient.id:05}", f"study{drawn.study}")
        assert (film.view, film.sex, film.age) == (drawn.view, drawn.patient.sex, drawn.patient.age)
        assert all(film.labels[name] == 1 for name in drawn.findings)
        asked = {item[1:] for item in parse_prompt(film.impression or "") if item[0] == "finding"}
        assert asked - {(NO_FINDING, None)} == set(drawn.findings.items())
    assert np.abs(read_picture(films[0], 32).astype(int) - draw(cohort[0], 32)).mean() < 3


def test_labels_keep_chexperts_habits(rows: list[dict[str, str]]) -> None:
    values = {name: {row[name] for row in rows} for name in LABELS}
    assert values[NO_FINDING] == {"1.0", ""}
    assert values["Edema"] == {"1.0", "0.0", "-1.0", ""}
    assert values["Pneumonia"] == {"-1.0", ""}
    assert values["Fracture"] == {""}
    for row in rows:
        assert (row["Frontal/Lateral"] == "Lateral") == (row["AP/PA"] == "") == row["Path"].endswith("view1_lateral.jpg")
        children = [row[name] for name in ("Lung Lesion", "Edema", "Consolidation", "Atelectasis")]
        assert (row["Lung Opacity"] == "1.0") == ("1.0" in children)
        assert (row["Enlarged Cardiomediastinum"] == "1.0") == (row["Cardiomegaly"] == "1.0")
        others = {row[name] for name in LABELS if name not in {NO_FINDING, "Support Devices"}}
        assert (row[NO_FINDING] == "1.0") == ("1.0" not in others)
        assert row[NO_FINDING] == "" or "-1.0" not in others


def test_every_impression_is_unique(dataset: Path) -> None:
    lines = (dataset / "reports.csv").read_text().splitlines()
    assert lines[0] == "path_to_image,section_impression"
    exams = {line.rsplit("Exam ", 1)[1] for line in lines[1:]}
    assert len(exams) == len(lines) - 1 == len(make_cohort(12, 0))


def test_same_seed_gives_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    assert contents(write(tmp_path / "again")) == contents(dataset)
    assert contents(write(tmp_path / "other", seed=1)) != contents(dataset)


def test_complete_folder_is_left_as_it_is(tmp_path: Path) -> None:
    folder = write(tmp_path, patients=2)
    written: list[int] = []
    assert write(tmp_path, patients=2, written=written) == folder
    assert written == []


def test_folder_of_another_recipe_is_written_anew(tmp_path: Path) -> None:
    write(tmp_path, patients=3)
    folder = write(tmp_path, patients=2)
    assert sorted(path.name for path in (folder / "train").iterdir()) == ["patient00001", "patient00002"]


def test_half_written_folder_is_written_anew(tmp_path: Path) -> None:
    def stop(step: int, _total: int) -> None:
        if step == 2:
            raise JobCancelledError

    with pytest.raises(JobCancelledError):
        write_phantom_chexpert(tmp_path, patients=5, seed=0, size=32, on_progress=stop)
    folder = tmp_path / "CheXpert-v1.0-small"
    assert json.loads((folder / MARKER).read_text())["complete"] is False
    assert not (folder / "train.csv").exists()
    assert contents(write(tmp_path, patients=5)) == contents(write(tmp_path / "fresh", patients=5))


def test_damaged_marker_means_half_written(tmp_path: Path) -> None:
    folder = write(tmp_path, patients=2)
    (folder / MARKER).write_text('{"patie')
    written: list[int] = []
    write(tmp_path, patients=2, written=written)
    assert written


def test_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    precious = tmp_path / "CheXpert-v1.0-small" / "train" / "patient00001"
    precious.mkdir(parents=True)
    with pytest.raises(DatasetError, match="was not written by the phantom"):
        write(tmp_path)
    assert precious.exists()
