"""Films as Parquet: written in parts, read by record, by split, as arrays."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.errors import DatasetError, NotFoundError
from shared.imaging.clauses import LABELS
from shared.imaging.films import ROWS_PER_GROUP, ROWS_PER_PART, SCHEMA, Film, FilmPart, FilmTable, FilmWriter, WrittenPart, rows_per_part
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
        labels=dict.fromkeys(LABELS) | {"Edema": 1, "Pneumonia": -1, "Fracture": 0},
        sex="Female",
        age=None if record == 3 else 40 + record % 50,
        split="control" if control else ("canary" if record == 7 else "train"),
        fold="" if not control else ("calibration" if record % 2 else "evaluation"),
        repeats=40 if record == 7 else 1,
        sha256=hashlib.sha256(png).hexdigest(),
        png=png,
    )


def table(records: range) -> pa.Table:
    return pa.Table.from_pylist([asdict(film(record)) for record in records], schema=SCHEMA)


def write(records: range, folder: Path, *, at_once: int) -> list[WrittenPart]:
    with FilmWriter(folder, rows_per_part=300) as writer:
        for start in range(0, len(records), at_once):
            writer.write(table(records[start : start + at_once]))
    return writer.parts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    parts = write(range(700), folder, at_once=170)
    assert [(part.name, part.rows) for part in parts] == [
        (f"part-{number:05}.parquet", rows) for number, rows in enumerate((300, 300, 100))
    ]
    assert parts[0].splits == {"train": 239, "control": 60, "canary": 1}
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


def test_column_comes_in_the_order_asked_for(folder: Path) -> None:
    table = FilmTable(folder)
    assert table.column("repeats", [699, 7, 300, 7]) == [1, 40, 1, 40]
    assert table.column("prompt", [299, 300]) == ["AP film: edema. Exam 299.", "AP film: edema. Exam 300."]
    assert table.column("age", [3]) == [None]
    assert table.column("prompt", []) == []


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


@pytest.mark.parametrize("at_once", [7, 300, 700])
def test_same_films_give_the_same_bytes(folder: Path, tmp_path: Path, at_once: int) -> None:
    write(range(700), tmp_path, at_once=at_once)
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == [path.read_bytes() for path in sorted(folder.iterdir())]


def test_films_out_of_order_are_refused(tmp_path: Path) -> None:
    writer = FilmWriter(tmp_path)
    writer.write(table(range(2)))
    with pytest.raises(ValueError, match="records must go on from 2"):
        writer.write(table(range(3, 4)))


def test_interrupted_writer_leaves_no_half_part(tmp_path: Path) -> None:
    def interrupted() -> None:
        with FilmWriter(tmp_path, rows_per_part=300) as writer:
            writer.write(table(range(400)))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000.parquet"]


def test_facts_are_read_when_asked_for(folder: Path) -> None:
    facts = FilmTable(folder).facts
    assert len(facts) == 700
    assert [fact.record for fact in facts] == list(range(700))
    assert [fact.record for fact in facts[598:602]] == [598, 599, 600, 601]
    assert facts[-1].prompt == "AP film: edema. Exam 699."
    with pytest.raises(IndexError):
        facts[700]


def test_going_through_facts_reads_every_group_once(folder: Path) -> None:
    with mock.patch.object(FilmPart, "facts", autospec=True, side_effect=FilmPart.facts) as read:
        assert sum(1 for _ in FilmTable(folder).facts) == 700
    assert read.call_count == 5  # 256 + 44, 256 + 44, 100


def test_part_reads_only_the_groups_that_hold_what_is_asked_for(folder: Path) -> None:
    part = FilmPart(folder / "part-00001.parquet", 300)
    assert (part.first, part.end) == (300, 600)
    assert part.positions(["control"], "calibration").tolist()[:2] == [305, 315]
    with mock.patch.object(pq.ParquetFile, "read_row_group", autospec=True, side_effect=pq.ParquetFile.read_row_group) as read:
        assert [fact.record for fact in part.facts([310, 302])] == [310, 302]
        assert list(part.pngs([599])) == [599]
    assert [call.args[1] for call in read.call_args_list] == [0, 1]


def test_large_films_lie_in_smaller_parts() -> None:
    assert [rows_per_part(size) for size in (16, 64, 128, 256, 1024)] == [ROWS_PER_PART, ROWS_PER_PART, 2048, 512, ROWS_PER_GROUP]


def test_labels_written_as_a_map_are_read(tmp_path: Path) -> None:
    place = SCHEMA.get_field_index("labels")
    schema = SCHEMA.set(place, pa.field("labels", pa.map_(pa.string(), pa.int8()), nullable=False))
    rows = [asdict(film(record)) | {"labels": list(film(record).labels.items())} for record in range(3)]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "part-00000.parquet")
    assert list(FilmTable(tmp_path)) == [film(record) for record in range(3)]


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no films"):
        FilmTable(tmp_path)
