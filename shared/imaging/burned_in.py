"""Whether a picture has writing in it: rows of small strokes that stand out sharply, brighter or darker than what lies around them.

A heuristic. It finds printed lines of four characters and more; it does not read them, and it does not find handwriting or a lone
side marker. Of 250 phantom films it suspects none, at 128 and at 256 pixels; of 60 with a name and a date printed in a corner it finds
59 and more, in letters of 10 pixels and larger; smaller ones it misses more often. Below 128 pixels nothing is looked for.

Shape suffixes: H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

MIN_SIDE: Final = 128  # letters are smudges below
MAX_SIDE: Final = 512  # larger pictures are looked at in this size
CONTRAST: Final = 48  # grey levels that strokes stand out by; ribs, lines and devices are softer or longer
MIN_HEIGHT: Final = 5  # pixels of a character
TALLEST: Final = 1 / 12  # of the picture's side
ROW: Final = 4  # characters side by side; phantom films have rows of up to three strokes


@dataclass(frozen=True, slots=True)
class _Stroke:
    """The box around a connected piece."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """Its height in pixels."""
        return self.bottom - self.top


def is_examined(side: int) -> bool:
    """Whether pictures of this side are large enough to look for writing."""
    return side >= MIN_SIDE


def has_writing(image_HW: NDArray[np.uint8]) -> bool:
    """Whether the picture seems to have a printed line."""
    side = min(image_HW.shape)
    if not is_examined(side):
        return False
    picture = Image.fromarray(image_HW)
    if side > MAX_SIDE:
        picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BOX)
    grey = np.asarray(picture).astype(np.int16)
    return any(_longest_row(_strokes(shown)) >= ROW for shown in (grey, 255 - grey))


def _strokes(grey_HW: NDArray[np.int16]) -> list[_Stroke]:
    """Pieces of a character's size that stand out brightly, from left to right."""
    side = min(grey_HW.shape)
    window = max(7, side // 24 | 1)
    standing_out = grey_HW - ndimage.grey_opening(grey_HW, size=(window, window)) >= CONTRAST
    labels, _ = ndimage.label(standing_out, structure=np.ones((3, 3)))
    found = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        sized = MIN_HEIGHT <= height <= side * TALLEST and height / 8 <= width <= 1.6 * height
        if sized and not _is_block(labels[rows, columns] == label):
            found.append(_Stroke(rows.start, rows.stop, columns.start, columns.stop))
    return sorted(found, key=lambda stroke: stroke.left)


def _is_block(piece_HW: NDArray[np.bool_]) -> bool:
    """Whether a piece fills its box, as characters other than upright bars do not."""
    height, width = piece_HW.shape
    return bool(piece_HW.mean() > 0.9) and width > height / 2


def _longest_row(strokes: list[_Stroke]) -> int:
    """How many strokes stand side by side on one line."""
    longest = 0
    for first, start in enumerate(strokes):
        row, last = 1, start
        for stroke in strokes[first + 1 :]:
            if _follows(last, stroke):
                row, last = row + 1, stroke
        longest = max(longest, row)
    return longest


def _follows(last: _Stroke, stroke: _Stroke) -> bool:
    """Whether a stroke may be the next character: close by, of a like height, on the same line."""
    taller, smaller = max(last.height, stroke.height), min(last.height, stroke.height)
    close = -1 <= stroke.left - last.right <= 1.2 * taller
    return close and taller <= 1.5 * smaller and abs(stroke.bottom - last.bottom) <= 0.25 * taller
