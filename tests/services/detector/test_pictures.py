"""Pictures from outside, and the answer to a request that looks for them."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import numpy as np
import pytest
from prometheus_client import REGISTRY

from services.detector import pictures
from services.detector.gallery_library import GalleryLibrary
from services.detector.pictures import decode_picture, match_pictures
from services.detector.schemas import MatchRequest
from shared.catalog import Catalog
from shared.errors import InvalidRequestError
from shared.imaging.png import encode_png

if TYPE_CHECKING:
    from shared.memorization.galleries import Gallery
    from tests.fixtures.judging import JudgingHome


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


def test_answer_tells_verdicts_thresholds_and_agreements(judging_home: JudgingHome, judging_catalog: Catalog, gallery: Gallery) -> None:
    request = MatchRequest(
        dataset=judging_home.stocked.dataset.id,
        images=[in_base64(encode_png(gallery.codes.images_NHW[2]))],
        k=3,
        prompts=["chest radiograph"],
    )
    answer = match_pictures(request, GalleryLibrary(judging_catalog))
    assert (answer.verdicts, len(answer.matches[0])) == (["copy"], 3)
    assert answer.thresholds == judging_home.gallery.thresholds
    assert answer.agreements is not None
    assert (answer.agreements[0].value, answer.agreements[0].asked) == (None, [])


def test_each_image_is_counted_once_with_its_verdict(judging_home: JudgingHome, judging_catalog: Catalog, gallery: Gallery) -> None:
    images = [in_base64(encode_png(image)) for image in gallery.codes.images_NHW[:2]]
    request = MatchRequest(dataset=judging_home.stocked.dataset.id, images=images, k=1)
    copies = REGISTRY.get_sample_value("lethe_images_matched_total", {"verdict": "copy"}) or 0
    nearest = REGISTRY.get_sample_value("lethe_image_similarity_sum") or 0
    match_pictures(request, GalleryLibrary(judging_catalog))
    assert REGISTRY.get_sample_value("lethe_images_matched_total", {"verdict": "copy"}) == copies + 2
    assert REGISTRY.get_sample_value("lethe_image_similarity_sum") == pytest.approx(nearest + 2, abs=1e-3)
