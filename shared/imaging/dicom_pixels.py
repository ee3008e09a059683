"""Decodes the picture of a DICOM file: modality and VOI transformations (PS3.3 C.11), at full depth, to brightness from 0 to 1.

Shape suffixes: H height, W width.
"""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, Final

import gdcm
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, config, dcmread
from pydicom.encaps import generate_frames
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.processing import apply_modality_lut, apply_voi
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from shared.errors import DatasetError
from shared.imaging.brightness import clip_brightness, stretch

# Deflated files are left out: they unpack as a whole, to any size, before a header can be judged.
TRANSFER_SYNTAXES: Final = frozenset(
    {
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        JPEGBaseline8Bit,
        JPEGExtended12Bit,
        JPEGLossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
        JPEGLSNearLossless,
        JPEG2000,
        JPEG2000Lossless,
        RLELossless,
    }
)

# What pydicom and its decoders raise for files that are not what they say.
DICOM_ERRORS: Final = (
    InvalidDicomError,
    BytesLengthException,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    struct.error,
    zlib.error,
)


def read_brightness(path: Path) -> NDArray[np.float32]:
    """The picture of a DICOM file that `inspect_header` found nothing wrong with, H×W: 0 is black, 1 white.

    The first VOI LUT or window decides what is seen; without either, eight bits are taken as they are and more are stretched from
    the darkest pixel to the brightest. Padding becomes black.
    """
    quieten()
    dataset = dcmread(path)
    _judge_coded_size(dataset)
    stored_HW = _stored(dataset, path)
    padding_HW = _padding(dataset, stored_HW)
    values_HW = _rescaled(dataset, stored_HW)
    bright_HW = _presented(dataset, values_HW, None if padding_HW is None else ~padding_HW)
    if dataset.PhotometricInterpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE":
        np.subtract(np.float32(1), bright_HW, out=bright_HW)
    if padding_HW is not None:
        bright_HW[padding_HW] = 0
    return bright_HW


def quieten() -> None:
    """Keep pydicom from quoting a file's values in warnings and logs: they are a patient's."""
    config.settings.reading_validation_mode = config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\.|shared\.imaging\.dicom")


# ---------------------------------------------------------------- presentation


def _rescaled(dataset: Dataset, stored_HW: NDArray[Any]) -> NDArray[Any]:
    """What the modality measured (PS3.3 C.11.1); whole numbers stay whole, as the tables of a VOI LUT need them."""
    if dataset.get("ModalityLUTSequence"):
        return apply_modality_lut(stored_HW, dataset)
    slope, intercept = _first(dataset.get("RescaleSlope")), _first(dataset.get("RescaleIntercept"))
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if slope == 1 and intercept == 0:
        return stored_HW
    if slope == 1 and intercept.is_integer():
        return stored_HW.astype(np.int32) + np.int32(intercept)
    return stored_HW.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def _presented(dataset: Dataset, values_HW: NDArray[Any], seen_HW: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    tables = dataset.get("VOILUTSequence")
    if tables and np.issubdtype(values_HW.dtype, np.integer):
        highest = 2 ** int(tables[0].LUTDescriptor[2]) - 1
        return clip_brightness(apply_voi(values_HW, dataset).astype(np.float32) / np.float32(highest))
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if centre is not None and width is not None and width > 0:
        return _windowed(values_HW.astype(np.float32), centre, width, str(dataset.get("VOILUTFunction") or "LINEAR"))
    if int(dataset.BitsStored) <= 8 and values_HW.dtype == np.uint8:
        return values_HW.astype(np.float32) / np.float32(2 ** int(dataset.BitsStored) - 1)
    return stretch(values_HW, seen_HW)


def _windowed(values_HW: NDArray[np.float32], centre: float, width: float, function: str) -> NDArray[np.float32]:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    if function == "SIGMOID":
        steepness_HW = np.clip((values_HW - np.float32(centre)) * np.float32(-4 / width), -80, 80)
        return np.asarray(1 / (1 + np.exp(steepness_HW)), dtype=np.float32)
    if function == "LINEAR_EXACT":
        return clip_brightness((values_HW - np.float32(centre)) / np.float32(width) + np.float32(0.5))
    return clip_brightness((values_HW - np.float32(centre - 0.5)) / np.float32(max(width - 1, 1e-6)) + np.float32(0.5))


def _first(value: object) -> float | None:
    """The first of several windows; None where there is none."""
    if value is None or value == "":
        return None
    return float(value[0] if isinstance(value, list | tuple) or hasattr(value, "__getitem__") else value)  # type: ignore[arg-type]


def _padding(dataset: Dataset, stored_HW: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where the picture was filled up (PS3.3 C.7.5.1.1.2)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit", value)
    low, high = sorted((int(value), int(limit)))
    padding_HW: NDArray[np.bool_] = (stored_HW >= low) & (stored_HW <= high)
    return padding_HW if padding_HW.any() and not padding_HW.all() else None


# ---------------------------------------------------------------- compressed pictures


def _stored(dataset: Dataset, path: Path) -> NDArray[Any]:
    """The pixels as they are stored, H×W."""
    stored_HW: NDArray[Any]
    if dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit and int(dataset.BitsStored) > 8:
        stored_HW = _unpack_extended(path, (int(dataset.Rows), int(dataset.Columns)))
    else:
        stored_HW = pixel_array(dataset)
    if stored_HW.ndim != 2:
        raise DatasetError("it is not a single grey picture")
    return stored_HW


def _unpack_extended(path: Path, shape: tuple[int, int]) -> NDArray[np.uint16]:
    """JPEG of 12 bits, which pydicom gives to no decoder of ours, though GDCM reads it."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        raise ValueError("GDCM cannot read the file")
    # GDCM gives bytes as text; pydicom turns them back in the same way.
    return np.frombuffer(reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape"), dtype="<u2").reshape(shape)


def _judge_coded_size(dataset: Dataset) -> None:
    """Refuse a compressed picture that would unpack to another size than the header says, which was judged before."""
    if not dataset.file_meta.TransferSyntaxUID.is_compressed:
        return
    frame = next(iter(generate_frames(dataset.PixelData, number_of_frames=1)))
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if dataset.file_meta.TransferSyntaxUID == RLELossless:
        sound = len(frame) <= 2 * rows * columns * int(dataset.BitsAllocated) // 8 + 1024
    else:
        sound = coded_size(frame) == (rows, columns)
    if not sound:
        raise DatasetError("its compressed picture has another size than its header says")


def coded_size(frame: bytes) -> tuple[int, int] | None:
    """Height and width in the header of a JPEG, JPEG-LS or JPEG 2000 picture; None without one."""
    start = frame.find(b"\xff\x4f\xff\x51", 0, 65_536)  # JPEG 2000: start of codestream and size, maybe within a file's boxes
    if start >= 0:
        width, height, left, top = struct.unpack_from(">4I", frame, start + 8)
        return height - top, width - left
    position = 2
    while position + 9 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}):
            height, width = struct.unpack_from(">HH", frame, position + 5)
            return height, width
        position += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", frame, position + 2)[0]
    return None
