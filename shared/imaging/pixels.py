"""Decodes the pictures of films into grey squares, many at a time; 16 bits keep their depth until they are scaled to 8.

Pictures become square: scaled so that the short side fits, then cropped at the centre. Bars would be learnt by a model, and
stretching would change the heart's width; what the crop takes from a radiograph's long side is mostly arms and collimation.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.errors import DatasetError
from shared.imaging.dicom import MAGIC, MAGIC_OFFSET
from shared.imaging.dicom_pixels import DICOM_ERRORS, read_brightness, stretch
from shared.imaging.png import DECODE_ERRORS, grey_pixels
from shared.imaging.sources import MAX_SOURCE_PIXELS, RowProblems, SourceFilm

# Threads, not processes: decoders let go of the interpreter, and small films are decoded faster than what follows can use them.
DECODING_THREADS: Final = 4
WAITING_PER_THREAD: Final = 4  # batches that are decoded ahead of the one that is taken
BATCH_PIXELS: Final = 65_536  # what one task decodes to: handing over small films one by one costs a fifth of their decoding
Decoded = NDArray[np.uint8] | DatasetError
_FORMATS: Final = ("JPEG", "PNG")
_WHITE: Final = 255


def read_pictures(films: Iterable[SourceFilm], image_size: int) -> Iterator[NDArray[np.uint8]]:
    """Decode the films in parallel, in order, as squares of `image_size`; few wait in memory at any time.

    From the first film on that cannot be decoded, no more are given, but the others are tried: one DatasetError tells of all.
    """
    problems = RowProblems()
    for batch in _decode(films, image_size):
        for decoded in batch.result():
            if isinstance(decoded, DatasetError):
                problems.add(str(decoded))
            elif not problems:
                yield decoded
    problems.check()


def read_picture(film: SourceFilm, image_size: int) -> NDArray[np.uint8]:
    """Decode one film as a grey square of `image_size`."""
    try:
        with film.path.open("rb") as file:
            grey = _open_dicom(film) if _says_dicom(file) else _open_picture(film, file, image_size)
    except OSError as error:
        raise DatasetError(f"{film.place} cannot be opened") from error
    short = min(grey.size)
    left, top = (grey.width - short) / 2, (grey.height - short) / 2
    square = grey.resize((image_size, image_size), Image.Resampling.LANCZOS, box=(left, top, left + short, top + short))
    pixels = np.asarray(square)
    return pixels if grey.mode == "L" else np.clip(np.rint(pixels * _WHITE), 0, _WHITE).astype(np.uint8)


def _decode(films: Iterable[SourceFilm], image_size: int) -> Iterator[Future[list[Decoded]]]:
    """The films as they are being decoded, in order and by the batch; none is begun before there is room for it."""
    size = max(1, BATCH_PIXELS // image_size**2)
    with ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="films") as pool:
        waiting: deque[Future[list[Decoded]]] = deque()
        remaining = iter(films)
        try:
            while batch := list(itertools.islice(remaining, size)):
                waiting.append(pool.submit(_decode_batch, batch, image_size))
                if len(waiting) > WAITING_PER_THREAD * DECODING_THREADS:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for future in waiting:
                future.cancel()


def _decode_batch(films: Sequence[SourceFilm], image_size: int) -> list[Decoded]:
    """The films' pictures, or why one has none."""
    decoded: list[Decoded] = []
    for film in films:
        try:
            decoded.append(read_picture(film, image_size))
        except DatasetError as error:
            decoded.append(error)
    return decoded


def _says_dicom(file: IO[bytes]) -> bool:
    """Whether the file is DICOM by its content; it is read from its beginning afterwards."""
    magic = file.read(MAGIC_OFFSET + len(MAGIC))[MAGIC_OFFSET:]
    file.seek(0)
    return magic == MAGIC


def _open_picture(film: SourceFilm, file: IO[bytes], image_size: int) -> Image.Image:
    """A JPEG or PNG as grey of 8 bits, or of 16 bits as brightness from 0 to 1 between its darkest and brightest pixel."""
    try:
        with Image.open(file, formats=_FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_SOURCE_PIXELS:
                raise DatasetError(f"{film.place} has {width}x{height} pixels, the limit is {MAX_SOURCE_PIXELS} in all")
            if picture.mode.startswith("I"):
                return Image.fromarray(stretch(np.asarray(picture)))
            picture.draft("L", (2 * image_size, 2 * image_size))  # JPEG only: unpacks at a fraction of the size where that is enough
            return Image.fromarray(grey_pixels(picture))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DatasetError(f"{film.place} has more than {MAX_SOURCE_PIXELS} pixels") from error
    except DECODE_ERRORS as error:
        raise DatasetError(f"{film.place} is not a readable JPEG or PNG picture") from error


def _open_dicom(film: SourceFilm) -> Image.Image:
    """A DICOM file as brightness from 0 to 1."""
    try:
        return Image.fromarray(read_brightness(film.path))
    except DatasetError as error:
        raise DatasetError(f"{film.place}: {error}") from None
    except DICOM_ERRORS:
        raise DatasetError(f"{film.place} is not a readable DICOM picture") from None  # the cause may quote the header
