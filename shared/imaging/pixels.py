"""Decodes the pictures of films into grey squares, many at a time.

Pictures become square: scaled so that the short side fits, then cropped at the centre. Bars would be learnt by a model, and
stretching would change the heart's width; what the crop takes from a radiograph's long side is mostly arms and collimation.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.errors import DatasetError
from shared.imaging.png import DECODE_ERRORS, grey_pixels
from shared.imaging.sources import SourceFilm

MAX_SOURCE_PIXELS: Final = 64_000_000  # a full-size CheXpert film has about 10 million
DECODING_THREADS: Final = 4
_FORMATS: Final = ("JPEG", "PNG")


def read_pictures(films: Iterable[SourceFilm], image_size: int) -> Iterator[NDArray[np.uint8]]:
    """Decode the films in parallel, in order, as squares of `image_size`; few wait in memory at any time."""
    with ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="films") as pool:
        waiting: deque[Future[NDArray[np.uint8]]] = deque()
        source = iter(films)
        try:
            for film in itertools.islice(source, 4 * DECODING_THREADS):
                waiting.append(pool.submit(read_picture, film, image_size))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(read_picture, film, image_size) for film in itertools.islice(source, 1))
        finally:
            for future in waiting:
                future.cancel()


def read_picture(film: SourceFilm, image_size: int) -> NDArray[np.uint8]:
    """Decode one film as a grey square of `image_size`."""
    try:
        with Image.open(film.path, formats=_FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_SOURCE_PIXELS:
                raise DatasetError(f"{film.place} has {width}x{height} pixels, the limit is {MAX_SOURCE_PIXELS} in all")
            picture.draft("L", (2 * image_size, 2 * image_size))  # JPEG only: unpacks at a fraction of the size where that is enough
            grey = Image.fromarray(grey_pixels(picture))
    except DECODE_ERRORS as error:
        raise DatasetError(f"{film.place} is not a readable JPEG or PNG picture") from error
    short = min(grey.size)
    left, top = (grey.width - short) / 2, (grey.height - short) / 2
    square = grey.resize((image_size, image_size), Image.Resampling.LANCZOS, box=(left, top, left + short, top + short))
    return np.asarray(square)
