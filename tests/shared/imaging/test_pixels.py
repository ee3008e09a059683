"""Decoding films: their pixels, their order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.errors import DatasetError
from shared.imaging.phantom import draw, make_cohort
from shared.imaging.pixels import read_picture, read_pictures
from shared.imaging.sources import SourceFilm


def film_at(path: Path, line: int = 2) -> SourceFilm:
    return SourceFilm(line=line, key=f"train/{path.name}", path=path, patient="p", study="s", view="AP", sex="Male", age=50, labels={})


def test_picture_is_cropped_to_its_centre(tmp_path: Path) -> None:
    wide = np.zeros((20, 60), dtype=np.uint8)
    wide[:, 20:40] = 200
    Image.fromarray(wide).save(tmp_path / "wide.jpg", quality=100)
    image = read_picture(film_at(tmp_path / "wide.jpg"), 10)
    assert image.shape == (10, 10)
    assert image[:, 1:-1].min() > 190


def test_jpeg_is_unpacked_small_and_scaled_as_it_always_was(tmp_path: Path) -> None:
    for number, film in enumerate(make_cohort(2, 0)):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(draw(film, 128)).save(path, format="JPEG", quality=95)
        with Image.open(path) as picture:
            picture.draft("L", (32, 32))
            small = picture.convert("L")
        expected = np.asarray(small.resize((16, 16), Image.Resampling.LANCZOS, box=(0.0, 0.0, *map(float, small.size))))
        assert small.size == (32, 32)
        assert np.array_equal(read_picture(film_at(path), 16), expected)


def test_pictures_come_in_order(tmp_path: Path) -> None:
    films = []
    for n in range(25):
        Image.fromarray(np.full((24, 32), 10 * n, dtype=np.uint8)).save(tmp_path / f"{n}.jpg", quality=95)
        films.append(film_at(tmp_path / f"{n}.jpg"))
    images = list(read_pictures(films, 8))
    assert np.allclose([image.mean() for image in images], [10 * n for n in range(25)], atol=1)


@pytest.mark.parametrize("cut", [0, 10, 300])
def test_unreadable_picture_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "film.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DatasetError, match=r"line 4: train/film\.jpg is not a readable"):
        read_picture(film_at(path, 4), 8)


def test_huge_picture_is_refused_by_its_header(tmp_path: Path) -> None:
    Image.new("1", (8001, 8001)).save(tmp_path / "huge.jpg", format="PNG")
    with pytest.raises(DatasetError, match=r"line 2: .* has 8001x8001 pixels"):
        read_picture(film_at(tmp_path / "huge.jpg"), 8)
