"""Grey pictures to PNG and back, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from shared.errors import InvalidRequestError
from shared.imaging.png import decode_png, encode_png

RAMP_HW = np.arange(6 * 5, dtype=np.uint8).reshape(6, 5) * 8


def png_of(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def test_picture_comes_back_unchanged() -> None:
    assert np.array_equal(decode_png(encode_png(RAMP_HW), max_pixels=30), RAMP_HW)


def test_equal_pixels_give_equal_bytes() -> None:
    assert encode_png(RAMP_HW) == encode_png(np.asfortranarray(RAMP_HW))


def test_colour_picture_becomes_grey() -> None:
    white = np.full((4, 4, 3), 255, dtype=np.uint8)
    assert np.array_equal(decode_png(png_of(white), max_pixels=16), np.full((4, 4), 255))


def test_sixteen_bit_picture_keeps_its_upper_byte() -> None:
    deep = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    assert decode_png(png_of(deep), max_pixels=4).tolist() == [[0, 0, 1, 255]]


@pytest.mark.parametrize(
    "data",
    [b"", b"not a picture", encode_png(RAMP_HW)[:-30], encode_png(RAMP_HW)[:20], b"\x89PNG\r\n\x1a\n" + b"\0" * 64],
    ids=["empty", "text", "truncated", "header", "zeros"],
)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="not a readable PNG"):
        decode_png(data, max_pixels=10_000)


def test_other_format_is_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(RAMP_HW).save(buffer, format="BMP")
    with pytest.raises(InvalidRequestError, match="not a readable PNG"):
        decode_png(buffer.getvalue(), max_pixels=10_000)


def test_picture_over_the_limit_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="5x6 pixels, the limit is 29"):
        decode_png(encode_png(RAMP_HW), max_pixels=29)


@pytest.mark.parametrize("side", [9_500, 60_000])
def test_bomb_is_refused_by_its_header(side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + encode_png(RAMP_HW)[33:]
    with pytest.raises(InvalidRequestError):
        decode_png(data, max_pixels=1_000_000)


@pytest.mark.parametrize("array", [np.zeros((4, 4), dtype=np.float32), np.zeros((4, 4, 3), dtype=np.uint8)])
def test_other_arrays_are_not_encoded(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="image_HW"):
        encode_png(array)
