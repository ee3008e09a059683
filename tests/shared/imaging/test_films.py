"""Films as Parquet: written in parts, read by record, by split, as arrays."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.errors import DatasetError, NotFoundError
from shared.imaging.films import Film, FilmTable, difference_hash, write_films
from shared.imaging.png import encode_png


def picture(record: int) -> np.ndarray:
    return np.random.default_rng(record).integers(0, 256, (16, 16), dtype=np.uint8)


def film(record: int) -> Film:
    png = encode_png(picture(record))
    control = record % 5 == 0
    return Film(
        record=record,
        patient=f"patient{record // 2:05}",
        study="study1",
        view="AP",
        prompt=f"AP film: edema. Exam {record}.",
        labels={"Edema": 1, "Pneumonia": -1, "Fracture": 0, "Pneumothorax": None},
        sex="Female",
        age=None if record == 3 else 40 + record % 50,
        split="control" if control else ("canary" if record == 7 else "train"),
        fold="" if not control else ("calibration" if record % 2 else "evaluation"),
        repeats=40 if record == 7 else 1,
        sha256=hashlib.sha256(png).hexdigest(),
        png=png,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    assert write_films((film(record) for record in range(700)), folder, rows_per_part=300) == 700
    return folder


def test_films_lie_in_parts(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]


def test_films_come_back_as_they_were(folder: Path) -> None:
    table = FilmTable(folder)
    assert len(table) == 700
    assert list(table) == [film(record) for record in range(700)]


@pytest.mark.parametrize("record", [0, 255, 256, 299, 300, 699])
def test_film_is_found_by_its_record(folder: Path, record: int) -> None:
    assert FilmTable(folder).film(record) == film(record)


def test_pictures_come_in_the_order_asked_for(folder: Path) -> None:
    records = [699, 3, 300, 3]
    images = FilmTable(folder).images(records)
    assert images.shape == (4, 16, 16)
    assert images.dtype == np.uint8
    assert np.array_equal(images, [picture(record) for record in records])


def test_no_records_give_no_pictures(folder: Path) -> None:
    assert len(FilmTable(folder).images([])) == 0


def test_splits_and_folds_are_selected(folder: Path) -> None:
    table = FilmTable(folder)
    assert table.select() == list(range(700))
    assert table.select("canary") == [7]
    assert table.select("control")[:4] == [0, 5, 10, 15]
    assert table.select("control", fold="calibration")[:3] == [5, 15, 25]
    assert len(table.select("train", "canary")) == 560


@pytest.mark.parametrize("record", [-1, 700])
def test_unknown_record_is_not_found(folder: Path, record: int) -> None:
    with pytest.raises(NotFoundError, match=f"record {record} does not exist; the data set has records 0 to 699"):
        FilmTable(folder).film(record)


def test_same_films_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_films((film(record) for record in range(700)), tmp_path, rows_per_part=300)
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == [path.read_bytes() for path in sorted(folder.iterdir())]


def test_films_out_of_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="record must be 1, not 2"):
        write_films([film(0), film(2)], tmp_path)


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no films"):
        FilmTable(tmp_path)


def test_difference_hash_survives_reencoding_and_tells_films_apart() -> None:
    smooth = np.asarray(Image.fromarray(picture(1)).resize((64, 64), Image.Resampling.BICUBIC))
    other = np.asarray(Image.fromarray(picture(2)).resize((64, 64), Image.Resampling.BICUBIC))
    brighter = np.clip(smooth.astype(np.int16) + 1, 0, 255).astype(np.uint8)
    assert len(difference_hash(smooth)) == 32
    assert difference_hash(smooth) == difference_hash(brighter.copy())
    assert difference_hash(smooth) != difference_hash(other)
