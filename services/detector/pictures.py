"""Pictures from outside, decoded within limits."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from shared.errors import InvalidRequestError
from shared.imaging.png import decode_png
from shared.memorization.thresholds import Images

MAX_PIXELS: Final = 4096 * 4096


def decode_picture(text: str, index: int) -> Images:
    """The grey pixels of a PNG in base64; InvalidRequestError names the picture."""
    field = f"images.{index}"
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(f"image {index} is not valid base64", field=field) from error
    try:
        return decode_png(data, max_pixels=MAX_PIXELS)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"image {index}: {error}", field=field) from error
