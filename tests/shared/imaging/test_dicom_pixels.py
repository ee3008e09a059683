"""Pictures of DICOM files: every compression gives the same pixels, and what is seen follows the header."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from shared.errors import DatasetError
from shared.imaging.dicom_pixels import DICOM_ERRORS, coded_size, read_brightness
from tests.shared.imaging.radiographs import item, pack, radiograph, ramp, save


def shipped(name: str) -> Path:
    """A file that comes with pydicom; nothing is downloaded."""
    found = get_testdata_file(name, download=False)
    return Path(str(found))


def read(tmp_path: Path, pixels: Any = None, **attributes: Any) -> Any:
    return read_brightness(save(radiograph(pixels, **attributes), tmp_path / "film.dcm"))


# ---------------------------------------------------------------- compression


@pytest.mark.parametrize(
    "syntax",
    ["ImplicitVRLittleEndian", "RLELossless", "JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"],
)
def test_lossless_compression_changes_no_pixel(tmp_path: Path, syntax: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (24, 40)).astype(np.uint16)
    path = save(radiograph(pixels), tmp_path / "film.dcm")
    plain = read_brightness(path)
    pack(path, syntax)
    assert dcmread(path).file_meta.TransferSyntaxUID != "1.2.840.10008.1.2.1"
    assert np.array_equal(read_brightness(path), plain)


@pytest.mark.parametrize(
    "name", ["MR_small_RLE", "MR_small_bigendian", "MR_small_implicit", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless"]
)
def test_shipped_files_of_every_compression_show_the_same(name: str) -> None:
    assert np.array_equal(read_brightness(shipped(f"{name}.dcm")), read_brightness(shipped("MR_small.dcm")))


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG-lossy.dcm"])
def test_jpeg_of_twelve_bits_is_unpacked(name: str) -> None:
    bright = read_brightness(shipped(name))
    assert bright.shape == (1024, 256)
    assert bright[420, 140] / bright[230, 120] == pytest.approx(244 / 95)


@pytest.mark.parametrize(
    ("name", "shape"), [("JPEG2000.dcm", (1024, 256)), ("JPEGLSNearLossless_08.dcm", (45, 10)), ("JPEGLSNearLossless_16.dcm", (50, 10))]
)
def test_lossy_compression_is_unpacked(name: str, shape: tuple[int, int]) -> None:
    bright = read_brightness(shipped(name))
    assert bright.shape == shape
    assert (bright.min(), bright.max()) == (0, 1)


def baseline(pixels: Any, **attributes: Any) -> Any:
    """A film whose picture is a JPEG of its own size, whatever the header says."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=100)
    dataset = radiograph(pixels, **attributes)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def test_jpeg_of_eight_bits_is_unpacked(tmp_path: Path) -> None:
    pixels = ramp(16, 16, highest=255).astype(np.uint8)
    bright = read_brightness(save(baseline(pixels), tmp_path / "film.dcm"))
    assert np.allclose(bright * 255, pixels, atol=2)


def test_picture_of_another_size_than_its_header_is_not_unpacked(tmp_path: Path) -> None:
    pixels = np.zeros((400, 400), dtype=np.uint8)
    with pytest.raises(DatasetError, match="another size than its header says"):
        read_brightness(save(baseline(pixels, Rows=8, Columns=8), tmp_path / "film.dcm"))
    with pytest.raises(DatasetError, match="another size than its header says"):
        read_brightness(shipped("JPEG2000-embedded-sequence-delimiter.dcm"))


@pytest.mark.parametrize(
    ("format_", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG2000", {}), ("JPEG2000", {"no_jp2": True})]
)
def test_size_is_read_from_the_coded_picture(format_: str, options: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    Image.new("L", (40, 30)).save(buffer, format=format_, **options)
    assert coded_size(buffer.getvalue()) == (30, 40)


@pytest.mark.parametrize("frame", [b"", b"\xff\xd8", b"\xff\xd8\xff\xd9" + bytes(20), bytes(100)])
def test_other_bytes_have_no_size(frame: bytes) -> None:
    assert coded_size(frame) is None


def test_truncated_pixels_are_an_error(tmp_path: Path) -> None:
    path = save(radiograph(), tmp_path / "film.dcm")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DICOM_ERRORS):
        read_brightness(path)


# ---------------------------------------------------------------- presentation


def test_twelve_bits_without_window_are_stretched(tmp_path: Path) -> None:
    bright = read(tmp_path, ramp(4, 101, highest=1000) + 500)
    assert np.allclose(bright[0], np.linspace(0, 1, 101), atol=1e-3)


def test_eight_bits_without_window_stay_as_they_are(tmp_path: Path) -> None:
    pixels = np.arange(50, 114, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal((read(tmp_path, pixels) * 255).round(), pixels)


def test_monochrome1_is_turned_over(tmp_path: Path) -> None:
    bright = read(tmp_path, PhotometricInterpretation="MONOCHROME1")
    assert np.allclose(bright, 1 - read(tmp_path))
    both = read(tmp_path, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    assert np.array_equal(bright, both), "once, not twice"
    assert np.array_equal(read(tmp_path, PresentationLUTShape="INVERSE"), bright)


def test_window_keeps_the_depth_of_the_pixels(tmp_path: Path) -> None:
    pixels = ramp(2, 256, highest=255) + 1000
    bright = read(tmp_path, pixels, WindowCenter=1128, WindowWidth=256)
    assert len(np.unique((bright * 255).round())) == 256, "their upper bytes alone have two values"


@pytest.mark.parametrize(
    ("function", "at_centre", "below"),
    [("LINEAR", 0.5 + 0.5 / 199, (-49.5 / 199) + 0.5), ("LINEAR_EXACT", 0.5, 0.25), ("SIGMOID", 0.5, 1 / (1 + np.exp(1)))],
)
def test_window_functions_are_those_of_the_standard(tmp_path: Path, function: str, at_centre: float, below: float) -> None:
    pixels = np.array([[500, 450, 0, 4095]], dtype=np.uint16)
    bright = read(tmp_path, pixels, WindowCenter=500, WindowWidth=200, VOILUTFunction=function)
    assert bright[0] == pytest.approx([at_centre, below, 0, 1], abs=1e-3)


def test_first_of_several_windows_counts(tmp_path: Path) -> None:
    first = read(tmp_path, WindowCenter=1000, WindowWidth=500)
    assert np.array_equal(read(tmp_path, WindowCenter=[1000, 2000], WindowWidth=[500, 100]), first)
    assert not np.array_equal(read(tmp_path, WindowCenter=2000, WindowWidth=100), first)


def test_window_is_of_rescaled_values(tmp_path: Path) -> None:
    window = read(tmp_path, WindowCenter=1000, WindowWidth=500)
    for slope, intercept in ((2, -100), (1, -200), (0.5, 10)):
        moved = read(
            tmp_path,
            RescaleSlope=slope,
            RescaleIntercept=intercept,
            WindowCenter=999.5 * slope + intercept + 0.5,
            WindowWidth=499 * slope + 1,
        )
        assert np.allclose(moved, window, atol=1e-3)


def test_table_decides_what_is_seen(tmp_path: Path) -> None:
    table = item(LUTDescriptor=[4096, 0, 10], LUTData=[1023 - (value >> 2) for value in range(4096)])
    table["LUTDescriptor"].VR = "US"
    table["LUTData"].VR = "US"
    bright = read(tmp_path, VOILUTSequence=[table])
    assert np.allclose(bright, 1 - read(tmp_path), atol=2e-3)


def test_padding_is_black_and_stretches_nothing(tmp_path: Path) -> None:
    pixels = ramp(4, 11, highest=100) + 1000
    pixels[:, :2] = 4000
    bright = read(tmp_path, pixels, PixelPaddingValue=4000)
    assert bright[0] == pytest.approx([0, 0, *np.linspace(0, 1, 9)])
    turned = read(tmp_path, pixels, PixelPaddingValue=3990, PixelPaddingRangeLimit=4010, PhotometricInterpretation="MONOCHROME1")
    assert turned[0] == pytest.approx([0, 0, *np.linspace(1, 0, 9)])


def test_header_is_not_quoted_in_warnings_or_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(radiograph(), tmp_path / "film.dcm")
    path.write_bytes(path.read_bytes().replace(b"057Y", b"Doe!"))
    with caplog.at_level(logging.DEBUG):
        read_brightness(path)
    assert "Doe" not in caplog.text
