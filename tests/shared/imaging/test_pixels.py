"""Decoding films: their pixels, their depth, and what is refused."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.errors import DatasetError
from shared.imaging.phantom import draw, make_cohort
from shared.imaging.pixels import read_picture
from shared.imaging.sources import SourceFilm
from tests.shared.imaging.radiographs import radiograph, save


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


@pytest.mark.parametrize("cut", [0, 10, 300])
def test_unreadable_picture_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "film.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DatasetError, match=r"line 4: train/film\.jpg is not a readable"):
        read_picture(film_at(path, 4), 8)


def header_of_png(width: int, height: int) -> bytes:
    """A PNG that says how large it is, with pixels for one line."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(width + 1))) + chunk(b"IEND", b"")


def header_of_jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header says another size than it has."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, format="JPEG")
    data = bytearray(buffer.getvalue())
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("header_of", [header_of_png, header_of_jpeg])
@pytest.mark.parametrize(("width", "height"), [(8001, 8001), (10_000, 10_000), (20_000, 20_000)])
def test_huge_picture_is_refused_by_its_header(tmp_path: Path, header_of: Callable[[int, int], bytes], width: int, height: int) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(header_of(width, height))
    tracemalloc.start()
    with pytest.raises(DatasetError, match=r"line 2: train/huge\.png has (\d+x\d+|more than 64000000) pixels"):
        read_picture(film_at(path), 8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_png_of_sixteen_bits_keeps_its_depth(tmp_path: Path) -> None:
    pixels = (np.arange(256, dtype=np.uint16) + 3000).reshape(16, 16)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    image = read_picture(film_at(tmp_path / "deep.png"), 16)
    assert image.dtype == np.uint8
    assert image.tolist() == np.arange(256).reshape(16, 16).tolist(), "their upper bytes alone are all alike"


def test_dicom_is_told_by_its_content(tmp_path: Path) -> None:
    image = read_picture(film_at(save(radiograph(), tmp_path / "film.png")), 32)
    assert (image.shape, image[0, 0], image[0, -1]) == ((32, 32), 0, 255)


@pytest.mark.parametrize("cut", [300, 100])
def test_damaged_dicom_is_named_without_its_header(tmp_path: Path, cut: int) -> None:
    path = save(radiograph(), tmp_path / "film")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DatasetError, match=r"^line 2: train/film is not a readable DICOM picture$") as refusal:
        read_picture(film_at(path), 8)
    assert refusal.value.__cause__ is None


def test_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="line 2: train/none cannot be opened"):
        read_picture(film_at(tmp_path / "none"), 8)
