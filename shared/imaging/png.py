"""Grey pictures to PNG bytes and back; bytes from outside are decoded within a pixel limit."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from shared.errors import InvalidRequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Shape suffixes: H height, W width.

# What Pillow raises for bytes that are no sound picture; a few decoders let their own errors through.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def encode_png(image_HW: NDArray[np.uint8]) -> bytes:
    """Return the lossless PNG of one grey picture; equal pixels give equal bytes."""
    if image_HW.dtype != np.uint8 or image_HW.ndim != 2:
        message = f"image_HW must be a uint8 array of two dimensions, not {image_HW.dtype} of {image_HW.ndim}"
        raise ValueError(message)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image_HW)).save(buffer, format="PNG")
    return buffer.getvalue()


def decode_png(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Return the grey pixels of a PNG; the size in its header is judged before anything is unpacked."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                message = f"the picture has {width}x{height} pixels, the limit is {max_pixels} in all"
                raise InvalidRequestError(message)
            return grey_pixels(picture)
    except DECODE_ERRORS as error:
        message = "the bytes are not a readable PNG picture"
        raise InvalidRequestError(message) from error


def grey_pixels(picture: Image.Image) -> NDArray[np.uint8]:
    """Return any picture that Pillow reads as 8-bit grey; of 16-bit pictures the upper byte is kept."""
    if picture.mode.startswith("I"):
        return (np.asarray(picture).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
    return np.asarray(picture.convert("L"))
