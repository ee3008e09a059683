"""Pictures from outside."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from services.detector import pictures
from services.detector.pictures import decode_picture
from shared.errors import InvalidRequestError
from shared.imaging.png import encode_png


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_picture_is_decoded_as_it_was_encoded() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(decode_picture(in_base64(encode_png(image)), 0), image)


@pytest.mark.parametrize("text", ["%%%", "AAA", "é", "QUJD\nQUJD"])
def test_text_that_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="image 3") as caught:
        decode_picture(text, 3)
    assert caught.value.field == "images.3"


def test_picture_above_the_pixel_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100)
    with pytest.raises(InvalidRequestError, match="limit is 100") as caught:
        decode_picture(in_base64(encode_png(np.zeros((11, 10), dtype=np.uint8))), 1)
    assert caught.value.field == "images.1"
