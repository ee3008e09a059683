"""Matching: images from outside looked for among a data set's training films, in micro-batches on the lane.

M images, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from prometheus_client import Counter, Histogram

from services.detector.gallery_library import GalleryLibrary
from services.detector.pictures import decode_picture
from services.detector.schemas import MatchAgreement, MatchAnswer, MatchRequest
from services.detector.schemas import Neighbour as ToldNeighbour
from shared.diffusion.batching import MicroBatcher
from shared.diffusion.lane import ComputeLane
from shared.errors import InvalidRequestError
from shared.memorization.agreements import Agreement, agreements, sorted_items
from shared.memorization.galleries import Gallery
from shared.memorization.matching import Neighbour, candidates, fit_to_gallery, gravest, shown
from shared.memorization.thresholds import Images

IMAGES_MATCHED = Counter("lethe_images_matched_total", "Images looked for among training films.", ["verdict"])
SIMILARITY = Histogram(
    "lethe_image_similarity", "Copy similarity of matched images to the nearest training film.", buckets=[i / 20 for i in range(1, 21)]
)


@dataclass(frozen=True)
class _Search:
    """What images must have in common to be looked for in one pass."""

    gallery: Gallery
    k: int


@dataclass(frozen=True)
class _Picture:
    """An image as the gallery's films were read, and what was asked of it."""

    image_HW: Images
    prompt: str | None


@dataclass(frozen=True)
class _Found:
    """The films that an image was compared with, and how far it shows what was asked of it."""

    compared: list[Neighbour]
    agreement: Agreement | None


class Matcher:
    """Looks for images among the films of the galleries of a library."""

    def __init__(self, *, galleries: GalleryLibrary, lane: ComputeLane, reading: ComputeLane) -> None:
        """`reading` loads galleries and decodes pictures, for seconds: on neither the device's thread nor those that all requests share."""
        self._galleries = galleries
        self._lane = lane
        self.reading = reading
        self.batcher: MicroBatcher[_Search, _Picture, _Found] = MicroBatcher(self._work, turn=lane.turn)

    async def match(self, request: MatchRequest) -> MatchAnswer:
        """The nearest films of each image; ConflictError without a gallery, InvalidRequestError for what is no picture."""
        gallery, pictures = await self.reading.run(lambda: self._admitted(request))
        return _answer(gallery, request.k, await self.batcher.submit(_Search(gallery, request.k), pictures))

    def _admitted(self, request: MatchRequest) -> tuple[Gallery, list[_Picture]]:
        """The newest gallery and the decoded pictures: what cannot be looked for waits for no search and fails no other."""
        count = len(request.images)
        prompts: Sequence[str | None] = [None] * count if request.prompts is None else request.prompts
        if len(prompts) != count:
            raise InvalidRequestError(f"prompts must be one an image: {len(prompts)} for {count} images", field="prompts")
        gallery = self._galleries.get(request.dataset)
        images = [fit_to_gallery(decode_picture(text, index), gallery) for index, text in enumerate(request.images)]
        return gallery, [_Picture(*each) for each in zip(images, prompts, strict=True)]

    async def _work(self, search: _Search, pictures: list[_Picture]) -> list[_Found]:
        """One micro-batch, on the lane."""
        return await self._lane.run(lambda: _look(search, pictures), admitted=True)


def _look(search: _Search, pictures: Sequence[_Picture]) -> list[_Found]:
    """Search, judge, and read what the images show."""
    images_MHW = np.stack([picture.image_HW for picture in pictures])
    compared = candidates(search.gallery, images_MHW, search.k)
    asked = {row: picture.prompt for row, picture in enumerate(pictures) if picture.prompt is not None}
    agreed: dict[int, Agreement] = {}
    if asked:
        rows = list(asked)
        agreed = dict(zip(rows, agreements(search.gallery.reader, list(asked.values()), images_MHW[rows]), strict=True))
    return [_Found(neighbours, agreed.get(row)) for row, neighbours in enumerate(compared)]


def _answer(gallery: Gallery, k: int, found: Sequence[_Found]) -> MatchAnswer:
    """What the caller is told, and what is counted of it."""
    matches = [shown(each.compared, k) for each in found]
    verdicts = [gravest(neighbours) for neighbours in matches]
    for each, verdict in zip(found, verdicts, strict=True):
        IMAGES_MATCHED.labels(verdict=verdict).inc()
        SIMILARITY.observe(max(neighbour.similarity for neighbour in each.compared))
    agreed = [each.agreement for each in found if each.agreement is not None]
    return MatchAnswer(
        matches=[[ToldNeighbour(**asdict(neighbour)) for neighbour in neighbours] for neighbours in matches],
        verdicts=list(verdicts),
        thresholds=asdict(gallery.thresholds),
        gallery=gallery.id,
        agreements=[MatchAgreement(value=a.value, asked=sorted_items(a.asked), seen=sorted_items(a.seen)) for a in agreed] or None,
    )
