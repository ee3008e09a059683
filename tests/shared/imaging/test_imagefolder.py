"""Reading image folders: tables in CSV and JSON, optional columns, and damage that is named."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.errors import DatasetError, ForbiddenError
from shared.imaging.imagefolder import ImageFolder
from shared.imaging.pixels import read_picture
from shared.imaging.sources import SourceFilm
from tests.shared.imaging.radiographs import radiograph, save

ROWS: list[dict[str, Any]] = [
    {"file_name": "a/1.png", "text": "AP film: edema", "patient_id": "p1", "view": "AP", "sex": "F", "age": "57", "Edema": "1.0"},
    {"file_name": "2.jpg", "text": "lateral film", "patient_id": "p1", "view": "lateral", "sex": "", "age": ""},
    {"file_name": "3.png", "text": "", "patient_id": "p2", "view": "", "sex": "male", "age": "0", "report": "Whole."},
]
Maker = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Writes a folder with a table of these rows, as CSV or JSON lines, and a picture for each."""

    def make(rows: list[dict[str, Any]] = ROWS, *, name: str = "metadata.csv", bare: bool = False) -> Path:
        folder = tmp_path / "films"
        table = folder / name
        for number, row in enumerate(rows):
            path = table.parent / str(row.get("file_name") or "none.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), 10 * number, dtype=np.uint8)).save(path)
        kept = [{key: row[key] for key in row if not bare or key in {"file_name", "text", "patient_id"}} for row in rows]
        if ".jsonl" in name:
            table.write_text("".join(json.dumps(row) + "\n" for row in kept))
        else:
            with table.open("w", newline="", encoding="utf-8-sig") as file:
                writer = csv.DictWriter(file, sorted({key for row in kept for key in row}), restval="", lineterminator="\r\n")
                writer.writeheader()
                writer.writerows(kept)
        return folder

    return make


def read(folder: Path, table: str | None = None, **options: Any) -> list[SourceFilm]:
    return list(ImageFolder(folder, table, **({"views": ["frontal", "lateral", "other"]} | options)).films())


# ---------------------------------------------------------------- what is fine


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_rows_become_films(make: Maker, name: str) -> None:
    first, second, third = read(make(name=name))
    assert (first.key, first.patient, first.study, first.view, first.sex, first.age) == ("a/1.png", "p1", "", "AP", "Female", 57)
    assert (first.text, first.impression, first.report) == ("AP film: edema", None, None)
    assert {label: value for label, value in first.labels.items() if value is not None} == {"Edema": 1}
    assert (second.view, second.sex, second.age) == ("lateral", "Unknown", None)
    assert (third.view, third.sex, third.age, third.text, third.report) == ("unknown", "Male", 0, None, "Whole.")
    assert [film.line for film in (first, second, third)] == ([2, 3, 4] if name.endswith("csv") else [1, 2, 3])
    assert read_picture(second, 8).mean() == 10


def test_json_may_hold_numbers_and_labels_of_their_own(make: Maker) -> None:
    rows = [
        {"file_name": "1.png", "patient_id": 7, "age": 57, "labels": {"Edema": 1, "Fracture": -1, "Pneumonia": None, "Lung Lesion": False}}
    ]
    (film,) = read(make(rows, name="metadata.jsonl"))
    assert (film.patient, film.age, film.view) == ("7", 57, "unknown")
    assert {name: value for name, value in film.labels.items() if value is not None} == {"Edema": 1, "Fracture": -1, "Lung Lesion": 0}


def test_views_are_filtered_where_the_table_has_them(make: Maker) -> None:
    folder = make()
    assert [film.key for film in read(folder, views=["frontal"])] == ["a/1.png"]
    assert [film.key for film in read(folder, views=["other"])] == ["3.png"]
    assert len(read(make(bare=True), views=["frontal"])) == 3


def test_file_names_are_counted_from_the_table_on(make: Maker) -> None:
    films = read(make(name="train/metadata.csv"), "train/metadata.csv")
    assert [film.key for film in films] == ["train/a/1.png", "train/2.jpg", "train/3.png"]


def test_empty_lines_and_a_mark_are_fine_in_json(make: Maker) -> None:
    folder = make(name="metadata.jsonl")
    table = folder / "metadata.jsonl"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert [film.line for film in read(folder)] == [1, 3, 5]


def test_dicom_files_may_be_named_by_a_table(make: Maker) -> None:
    folder = make(name="metadata.jsonl")
    save(radiograph(), folder / "film.dcm")
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "film.dcm", "patient_id": "of the table", "text": "PA film"}) + "\n")
    film = read(folder)[-1]
    assert (film.patient, film.text) == ("of the table", "PA film")
    assert read_picture(film, 8).std() > 50


# ---------------------------------------------------------------- what is named


@pytest.mark.parametrize(
    ("attributes", "refusal"),
    [({"NumberOfFrames": 2}, "it has 2 frames"), ({"PixelData": None}, "it has no pixels"), (None, "not a readable DICOM file")],
)
def test_dicom_file_that_is_no_film_is_named_by_line(make: Maker, attributes: dict[str, Any] | None, refusal: str) -> None:
    folder = make([*ROWS, {"file_name": "film.png", "patient_id": "p"}], name="metadata.jsonl")
    table = folder / "metadata.jsonl"
    table.write_text(table.read_text().replace("film.png", "film.dcm"))
    (folder / "film.dcm").write_bytes(b"no film")
    if attributes is not None:
        save(radiograph(**attributes), folder / "film.dcm")
    with pytest.raises(DatasetError, match=rf"line 4: film\.dcm: {refusal}"):
        read(folder)


def test_folder_has_one_table_or_names_it(make: Maker) -> None:
    folder = make()
    (folder / "metadata.jsonl").write_text("")
    with pytest.raises(DatasetError, match=r"must hold one of metadata\.csv and metadata\.jsonl, not 2"):
        read(folder)
    assert len(read(folder, "metadata.csv")) == 3
    for name in ("metadata.csv", "metadata.jsonl"):
        (folder / name).unlink()
    with pytest.raises(DatasetError, match="not 0; name the table"):
        read(folder)


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_blank_patient_is_named_by_line(make: Maker, name: str) -> None:
    rows = [*ROWS, ROWS[0] | {"patient_id": " "}]
    with pytest.raises(DatasetError, match=r"line \d: column patient_id must not be blank"):
        read(make(rows, name=name))


def test_table_without_patients_is_refused(make: Maker) -> None:
    rows = [{"file_name": "1.png", "text": "x"}]
    with pytest.raises(DatasetError, match=r"metadata\.csv lacks the columns: patient_id"):
        read(make(rows))
    (make(rows) / "metadata.csv").unlink()
    with pytest.raises(DatasetError, match=r"metadata\.jsonl, line 1: column patient_id must not be blank"):
        read(make(rows, name="metadata.jsonl"))


@pytest.mark.parametrize("line", ["[]", "{", '"x"', "1", "[" * 100_000, "\udcff"])
def test_line_that_is_no_object_is_named(make: Maker, line: str) -> None:
    folder = make(name="metadata.jsonl")
    with (folder / "metadata.jsonl").open("ab") as file:
        file.write(line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(DatasetError, match=r"metadata\.jsonl, line 4: not a JSON object in UTF-8"):
        read(folder)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"file_name": "../2.jpg"}, r"the image \.\./2\.jpg is missing"),
        ({"file_name": "/etc/hostname"}, "is missing"),
        ({"file_name": ""}, "column file_name must not be blank"),
        ({"sex": "x", "age": "-1"}, "column sex must be Male, Female or Unknown; column age must be from 0 to 120"),
        ({"labels": {"Edema": 5}}, "column Edema must be 1.0"),
        ({"labels": {"Oedema": 1}}, "labels must be among CheXpert's 14, not Oedema"),
        ({"text": ["a"]}, "column text must be text or a number"),
    ],
)
def test_bad_value_is_named_by_line(make: Maker, change: dict[str, Any], rule: str) -> None:
    folder = make(name="metadata.jsonl")
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps(ROWS[0] | change) + "\n")
    with pytest.raises(DatasetError, match=rf"metadata\.jsonl, line 4: .*{rule}"):
        read(folder)


def test_link_out_of_the_folder_is_forbidden(make: Maker, tmp_path: Path) -> None:
    folder = make()
    (folder / "2.jpg").rename(tmp_path / "2.jpg")
    (folder / "2.jpg").symlink_to(tmp_path / "2.jpg")
    with pytest.raises(ForbiddenError, match="lies outside"):
        read(folder)
    with pytest.raises(ForbiddenError, match="lies outside"):
        read(folder, "../metadata.csv")
