"""Decodes the pictures of films into grey squares; 16 bits keep their depth until they are scaled to 8.

Pictures become square: scaled so that the short side fits, then cropped at the centre. Bars would be learnt by a model, and
stretching would change the heart's width; what the crop takes from a radiograph's long side is mostly arms and collimation.
"""

from __future__ import annotations

from typing import IO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.errors import DatasetError
from shared.imaging.brightness import stretch
from shared.imaging.dicom_files import says_dicom
from shared.imaging.png import DECODE_ERRORS, grey_pixels
from shared.imaging.sources import MAX_SOURCE_PIXELS, SourceFilm

# Threads, not processes: decoders let go of the interpreter, and small films are decoded faster than what follows can use them.
DECODING_THREADS: Final = 4
_FORMATS: Final = ("JPEG", "PNG")
_WHITE: Final = 255


def read_picture(film: SourceFilm, image_size: int) -> NDArray[np.uint8]:
    """Decode one film as a grey square of `image_size`."""
    try:
        with film.path.open("rb") as file:
            grey = _open_dicom(film) if says_dicom(file) else _open_picture(film, file, image_size)
    except OSError as error:
        raise DatasetError(f"{film.place} cannot be opened") from error
    short = min(grey.size)
    left, top = (grey.width - short) / 2, (grey.height - short) / 2
    square = grey.resize((image_size, image_size), Image.Resampling.LANCZOS, box=(left, top, left + short, top + short))
    pixels = np.asarray(square)
    return pixels if grey.mode == "L" else np.clip(np.rint(pixels * _WHITE), 0, _WHITE).astype(np.uint8)


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
    from shared.imaging.dicom_pixels import DICOM_ERRORS, read_brightness

    try:
        return Image.fromarray(read_brightness(film.path))
    except DatasetError as error:
        raise DatasetError(f"{film.place}: {error}") from None
    except DICOM_ERRORS:
        raise DatasetError(f"{film.place} is not a readable DICOM picture") from None  # the cause may quote the header
