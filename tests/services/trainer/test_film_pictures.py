"""Pictures on disk: decoded once, kept part by part, and what is found in them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from services.trainer import film_pictures
from services.trainer.dataset_spec import DatasetSpec
from services.trainer.film_pictures import FilmPictures, rows_per_spool, spool_pictures
from services.trainer.film_rows import FilmRows, spool_rows
from shared.errors import DatasetError, JobCancelledError
from shared.imaging.png import decode_png
from tests.services.trainer.films_in_memory import Films, film, noise, with_picture

SPEC = DatasetSpec.model_validate({"name": "x", "source": {"format": "phantom"}})
GROUP = 4


@pytest.fixture
def rows(tmp_path: Path) -> FilmRows:
    """Ten films in groups of four; film 6 is film 1 re-encoded, and film 8 its equal."""
    (tmp_path / "source").mkdir()
    (tmp_path / "spool").mkdir()
    shown = {n: noise(n) for n in range(10)}
    shown[6] = np.clip(shown[1].astype(np.int16) + 2, 0, 255).astype(np.uint8)
    shown[8] = shown[1]
    source = Films(*(with_picture(film(n), tmp_path / "source", shown[n]) for n in range(10)))
    return spool_rows(source, SPEC, tmp_path / "spool", rows_per_group=GROUP, count_tokens=None, on_rows=lambda _rows: None)


def spool(rows: FilmRows, folder: Path, told: list[int] | None = None, admitted: Any = None) -> FilmPictures:
    wanted = np.ones(10, dtype=np.bool_) if admitted is None else np.array(admitted, dtype=np.bool_)
    return spool_pictures(rows, wanted, 32, folder, lambda done, _per_second: None if told is None else told.append(done))


def test_pictures_lie_in_parts_beside_their_rows(rows: FilmRows, tmp_path: Path) -> None:
    told: list[int] = []
    pictures = spool(rows, tmp_path / "spool", told)
    assert told == [4, 8, 10]
    part = pictures.part(1)
    assert len(part) == GROUP
    assert np.array_equal(decode_png(part.column("png")[1].as_py(), max_pixels=1024), noise(5))
    assert part.column("sha256")[1].as_py() == hashlib.sha256(part.column("png")[1].as_py()).digest()


def test_only_admitted_films_are_decoded(rows: FilmRows, tmp_path: Path) -> None:
    pictures = spool(rows, tmp_path / "spool", admitted=[n in {1, 6, 8} for n in range(10)])
    assert [len(pictures.part(number)) for number in range(3)] == [1, 1, 1]
    assert pictures.columns().sha256_NS.shape == (3, 32)


def test_pictures_that_look_alike_are_paired(rows: FilmRows, tmp_path: Path) -> None:
    pictures = spool(rows, tmp_path / "spool")
    digests = [digest.tobytes() for digest in pictures.columns().sha256_NS]
    assert digests[1] == digests[8] != digests[6]
    earlier, later = pictures.alike(np.array([0, 1, 2, 3, 4, 5, 6, 7, 9]))
    assert (earlier.tolist(), later.tolist()) == ([1], [6])
    assert [side.tolist() for side in pictures.alike(np.array([0, 2, 6]))] == [[], []]


def test_second_attempt_decodes_what_is_missing_or_damaged(rows: FilmRows, tmp_path: Path) -> None:
    def stop(_done: int, _per_second: float) -> None:
        if _done > GROUP:
            raise JobCancelledError

    folder = tmp_path / "spool"
    with pytest.raises(JobCancelledError):
        spool_pictures(rows, np.ones(10, dtype=np.bool_), 32, folder, stop)
    (first,) = folder.glob("pictures-*.parquet")
    with mock.patch.object(film_pictures, "read_picture", side_effect=film_pictures.read_picture) as read:
        whole = spool(rows, folder)
    assert read.call_count == 6
    data = bytearray(first.read_bytes())
    data[100] ^= 1
    first.write_bytes(data)
    with mock.patch.object(film_pictures, "read_picture", side_effect=film_pictures.read_picture) as read:
        again = spool(rows, folder)
    assert read.call_count == GROUP
    assert again.part(0).equals(whole.part(0))


def test_all_unsound_pictures_are_told_and_none_of_their_parts_kept(rows: FilmRows, tmp_path: Path) -> None:
    for line in (3, 5, 11):
        (tmp_path / f"source/{line}.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"(?s)3 rows or films cannot be used.*line 3.*line 5.*line 11"):
        spool(rows, tmp_path / "spool")
    assert [path.name[:15] for path in (tmp_path / "spool").glob("pictures-*")] == ["pictures-000001"]


def test_writing_is_looked_for(rows: FilmRows, tmp_path: Path) -> None:
    with mock.patch.object(film_pictures, "has_writing", side_effect=lambda picture: bool(np.array_equal(picture, noise(3)))):
        assert np.flatnonzero(spool(rows, tmp_path / "spool").columns().writing).tolist() == [3]


def test_fewer_large_films_are_kept_at_once() -> None:
    assert [rows_per_spool(size) for size in (16, 64, 256, 512, 1024)] == [1024, 1024, 1024, 256, 64]
