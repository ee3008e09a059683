"""Pictures from outside, decoded within limits, and the answer to a request that looks for them among training films."""

from __future__ import annotations

import base64
import binascii
from dataclasses import asdict
from typing import Final

import numpy as np
from prometheus_client import Counter, Histogram

from services.detector.gallery_library import GalleryLibrary
from services.detector.schemas import MatchAgreement, MatchAnswer, MatchRequest, Neighbour
from shared.errors import InvalidRequestError
from shared.imaging.png import decode_png
from shared.memorization.agreements import agreements, sorted_items
from shared.memorization.galleries import Gallery
from shared.memorization.matching import candidates, fit_to_gallery, gravest, shown
from shared.memorization.thresholds import Images

MAX_PIXELS: Final = 4096 * 4096

IMAGES_MATCHED = Counter("lethe_images_matched_total", "Images looked for among training films.", ["verdict"])
SIMILARITY = Histogram(
    "lethe_image_similarity", "Copy similarity of matched images to the nearest training film.", buckets=[i / 20 for i in range(1, 21)]
)


def match_pictures(request: MatchRequest, galleries: GalleryLibrary) -> MatchAnswer:
    """Decode, search, judge, and read what the images show."""
    if request.prompts is not None and len(request.prompts) != len(request.images):
        raise InvalidRequestError(f"prompts must be one an image: {len(request.prompts)} for {len(request.images)} images", field="prompts")
    gallery = galleries.get(request.dataset)
    images_MHW = np.stack([fit_to_gallery(decode_picture(text, index), gallery) for index, text in enumerate(request.images)])
    compared = candidates(gallery, images_MHW, request.k)
    matches = [shown(neighbours, request.k) for neighbours in compared]
    for all_of_image, neighbours in zip(compared, matches, strict=True):
        IMAGES_MATCHED.labels(verdict=gravest(neighbours)).inc()
        SIMILARITY.observe(max(neighbour.similarity for neighbour in all_of_image))
    return MatchAnswer(
        matches=[[Neighbour(**asdict(neighbour)) for neighbour in neighbours] for neighbours in matches],
        verdicts=[gravest(neighbours) for neighbours in matches],
        thresholds=asdict(gallery.thresholds),
        gallery=gallery.id,
        agreements=_agreements(gallery, images_MHW, request.prompts) if request.prompts is not None else None,
    )


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


def _agreements(gallery: Gallery, images_MHW: Images, prompts: list[str]) -> list[MatchAgreement]:
    found = agreements(gallery.reader, prompts, images_MHW)
    return [MatchAgreement(value=a.value, asked=sorted_items(a.asked), seen=sorted_items(a.seen)) for a in found]
