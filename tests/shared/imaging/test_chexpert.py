"""Reading CheXpert folders: quirks that are fine, and damage that is named."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.errors import DatasetError, ForbiddenError
from shared.imaging.chexpert import COLUMNS, CheXpertFolder, key_of
from shared.imaging.sources import SourceFilm

NAME = "CheXpert-v1.0-small"
ROWS: list[dict[str, str]] = [
    {"Path": f"{NAME}/train/patient00001/study1/view1_frontal.jpg", "AP/PA": "AP", "Edema": "1.0", "Fracture": "0.0", "Pneumonia": "-1.0"},
    {"Path": f"{NAME}/train/patient00001/study1/view2_lateral.jpg", "Frontal/Lateral": "Lateral"},
    {"Path": f"{NAME}/train/patient00002/study3/view1_frontal.jpg", "AP/PA": "PA", "Sex": "Unknown", "Age": "0", "No Finding": "1.0"},
    {"Path": f"{NAME}/train/patient00003/study1/view1_frontal.jpg", "AP/PA": "LL", "Age": "90"},
]
Maker = Callable[..., Path]


def write_csv(path: Path, rows: list[dict[str, str]], *, columns: tuple[str, ...] = COLUMNS, **options: Any) -> None:
    filled = [{"Sex": "Female", "Age": "57", "Frontal/Lateral": "Frontal", **row} for row in rows]
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", **options)
        writer.writeheader()
        writer.writerows(filled)


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Writes a folder with these rows and a picture for each."""

    def make(rows: list[dict[str, str]] = ROWS, *, folder: str = NAME, **options: Any) -> Path:
        base = tmp_path / folder
        for number, row in enumerate(rows):
            path = base / key_of(row["Path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((24, 32), 10 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(path, quality=95)
        write_csv(base / "train.csv", rows, **options)
        return base

    return make


def read(folder: Path, **options: Any) -> list[SourceFilm]:
    return list(CheXpertFolder(folder, "train.csv", **({"views": ["frontal"]} | options)).films())


# ---------------------------------------------------------------- what is fine


def test_rows_become_films(make: Maker) -> None:
    first, second, third = read(make())
    assert (first.line, first.key, first.patient, first.study) == (
        2,
        "train/patient00001/study1/view1_frontal.jpg",
        "patient00001",
        "study1",
    )
    assert (first.view, first.sex, first.age, first.impression) == ("AP", "Female", 57, None)
    assert {name: value for name, value in first.labels.items() if value is not None} == {"Edema": 1, "Fracture": 0, "Pneumonia": -1}
    assert len(first.labels) == 14
    assert (second.view, second.sex, second.age, second.labels["No Finding"]) == ("PA", "Unknown", None, 1)
    assert (third.view, third.age) == ("LL", 90)


@pytest.mark.parametrize(
    ("views", "lines"),
    [(["frontal"], [2, 4, 5]), (["lateral"], [3]), (["AP"], [2]), (["PA", "lateral"], [3, 4]), (["frontal", "lateral"], [2, 3, 4, 5])],
)
def test_views_are_filtered(make: Maker, views: list[str], lines: list[int]) -> None:
    assert [film.line for film in read(make(), views=views)] == lines


def test_renamed_folder_is_read(make: Maker) -> None:
    assert len(read(make(folder="elsewhere"))) == 3


def test_paths_without_the_folder_name_are_read(make: Maker) -> None:
    assert len(read(make([row | {"Path": key_of(row["Path"])} for row in ROWS]))) == 3


def test_byte_order_mark_and_crlf_are_fine(make: Maker) -> None:
    assert len(read(make(encoding="utf-8-sig", lineterminator="\r\n"))) == 3


def test_more_columns_in_another_order_are_fine(make: Maker) -> None:
    assert len(read(make(columns=(*reversed(COLUMNS), "Race")))) == 3


def test_reports_are_joined_by_path(make: Maker) -> None:
    folder = make()
    with (folder / "reports.csv").open("w", encoding="utf-8") as file:
        file.write('path_to_image,section_impression\ntrain/patient00002/study3/view1_frontal.jpg,"1. Stable,\n 2. normal"\n')
    assert [film.impression for film in read(folder, reports_csv="reports.csv")] == [None, "1. Stable,\n 2. normal", None]


# ---------------------------------------------------------------- what is named


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere does not exist"):
        read(tmp_path / "nowhere")


def test_missing_csv_is_named(make: Maker) -> None:
    with pytest.raises(DatasetError, match=r"labels\.csv is missing"):
        list(CheXpertFolder(make(), "labels.csv", views=["frontal"]).films())


def test_missing_columns_are_named(make: Maker) -> None:
    with pytest.raises(DatasetError, match=r"train\.csv lacks the columns: Age, Edema"):
        read(make(columns=tuple(name for name in COLUMNS if name not in {"Age", "Edema"})))


def test_empty_csv_is_named(make: Maker) -> None:
    folder = make()
    (folder / "train.csv").write_text("")
    with pytest.raises(DatasetError, match=r"train\.csv lacks the columns: Path, "):
        read(folder)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00P", b'Path,"open'])
def test_other_bytes_are_no_csv(make: Maker, content: bytes) -> None:
    folder = make()
    (folder / "train.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=r"train\.csv is not a CSV file in UTF-8"):
        read(folder)


def test_short_row_is_named(make: Maker) -> None:
    folder = make()
    with (folder / "train.csv").open("a") as file:
        file.write("train/patient00009/study1/view1_frontal.jpg,Female\n")
    with pytest.raises(DatasetError, match=r"train\.csv, line 6: not as many values as columns"):
        read(folder)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("Sex", "x"),
        ("Age", "old"),
        ("Age", "-1"),
        ("Age", "nan"),
        ("Age", "121"),
        ("Frontal/Lateral", "Oblique"),
        ("AP/PA", "XX"),
        ("Edema", "2.0"),
        ("Support Devices", "yes"),
        ("Path", "picture.jpg"),
    ],
)
def test_bad_value_is_named_by_line_and_column(make: Maker, column: str, value: str) -> None:
    folder = make()
    write_csv(folder / "train.csv", [*ROWS, ROWS[0] | {column: value}])
    with pytest.raises(DatasetError, match=rf"train\.csv, line 6: column {column} "):
        read(folder)


def test_missing_image_is_named(make: Maker) -> None:
    folder = make()
    (folder / key_of(ROWS[2]["Path"])).unlink()
    with pytest.raises(DatasetError, match=r"train\.csv, line 4: the image .*patient00002/study3/view1_frontal\.jpg is missing"):
        read(folder)


def test_all_malformed_rows_and_all_their_columns_are_told(make: Maker) -> None:
    folder = make()
    bad = ROWS[0] | {"Sex": "x", "Age": "old", "Path": "train/patient00009/study1/view1_frontal.jpg"}
    write_csv(folder / "train.csv", [*ROWS, *[bad] * 30])
    with pytest.raises(DatasetError) as refusal:
        read(folder)
    head, first, *_, last, more = str(refusal.value).splitlines()
    assert head == "30 rows or films cannot be used:"
    assert first == (
        "train.csv, line 6: column Sex must be Male, Female or Unknown; column Age must be a number; "
        "the image train/patient00009/study1/view1_frontal.jpg is missing from the data set's folder"
    )
    assert last.startswith("train.csv, line 25: ")
    assert more == "and 10 more"


def test_films_of_other_views_need_not_be_there(make: Maker) -> None:
    folder = make()
    (folder / key_of(ROWS[1]["Path"])).unlink()
    assert len(read(folder)) == 3


def test_films_come_one_by_one(make: Maker) -> None:
    folder = make()
    write_csv(folder / "train.csv", [*ROWS, ROWS[0] | {"Sex": "x"}])
    films = CheXpertFolder(folder, "train.csv", views=["frontal"]).films()
    assert [next(films).line for _ in range(3)] == [2, 4, 5]
    with pytest.raises(DatasetError, match="line 6"):
        next(films)


def test_whole_reports_are_joined_where_the_table_has_them(make: Maker) -> None:
    folder = make()
    with (folder / "plus.csv").open("w", encoding="utf-8") as file:
        file.write("report,section_impression,path_to_image\nWhole report.,,train/patient00003/study1/view1_frontal.jpg\n")
    films = read(folder, reports_csv="plus.csv")
    assert [(film.impression, film.report) for film in films] == [(None, None), (None, None), (None, "Whole report.")]


def test_fingerprint_changes_with_any_table(make: Maker) -> None:
    folder = make()
    (folder / "reports.csv").write_text("path_to_image,section_impression\n")

    def fingerprint() -> str:
        return CheXpertFolder(folder, "train.csv", views=["frontal"], reports_csv="reports.csv").fingerprint()

    before = fingerprint()
    assert fingerprint() == before
    (folder / "reports.csv").write_text("path_to_image,section_impression\nx,y\n")
    assert fingerprint() != before
    assert (
        CheXpertFolder(folder, "train.csv", views=["frontal"]).fingerprint()
        == hashlib.sha256((folder / "train.csv").read_bytes()).hexdigest()
    )


def test_folder_without_frontal_films_is_refused(make: Maker) -> None:
    with pytest.raises(DatasetError, match=r"train\.csv names no film of the views asked for \(frontal\)"):
        read(make(ROWS[1:2]))


@pytest.mark.parametrize("path", ["../train/patient00001/study1/view1_frontal.jpg", "/train/patient00001/study1/view1_frontal.jpg"])
def test_path_out_of_the_folder_is_not_followed(make: Maker, path: str) -> None:
    folder = make()
    write_csv(folder / "train.csv", [ROWS[0] | {"Path": path}])
    with pytest.raises(DatasetError, match="is missing"):
        read(folder)


def test_link_out_of_the_folder_is_forbidden(make: Maker, tmp_path: Path) -> None:
    folder = make()
    image = folder / key_of(ROWS[0]["Path"])
    image.rename(tmp_path / "elsewhere.jpg")
    image.symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(ForbiddenError, match="lies outside the folders"):
        read(folder)
    assert len(read(folder, roots=[tmp_path])) == 3


@pytest.mark.parametrize("options", [{"reports_csv": "../reports.csv"}, {"reports_csv": "/etc/hostname"}])
def test_table_out_of_the_folder_is_forbidden(make: Maker, options: dict[str, str]) -> None:
    with pytest.raises(ForbiddenError, match="lies outside"):
        read(make(), **options)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg", "train/patient00001/study1/view1_frontal.jpg"),
        ("train/patient00001/study1/view1_frontal.jpg", "train/patient00001/study1/view1_frontal.jpg"),
        ("set/patient00001/study1/view1_frontal.jpg", "set/patient00001/study1/view1_frontal.jpg"),
    ],
)
def test_key_begins_at_the_split(path: str, key: str) -> None:
    assert key_of(path) == key
