"""A sheet of sample films, as small tiles on one picture. H height, W width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CONTACT_SHEET_NAME: Final = "contact-sheet.png"
TILE: Final = 96
COLUMNS: Final = 8
ROWS: Final = 3
SAMPLES: Final = COLUMNS * ROWS
GAP: Final = 2


def sample_positions(count: int) -> list[int]:
    """The films to show of so many: evenly spread, all of few."""
    return sorted({round(place * (count - 1) / max(1, min(SAMPLES, count) - 1)) for place in range(min(SAMPLES, count))})


def tile(image_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A square film in the size of the sheet."""
    return np.asarray(Image.fromarray(image_HW).resize((TILE, TILE), Image.Resampling.LANCZOS))


def contact_sheet(tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The tiles row by row, on black."""
    rows = -(-len(tiles) // COLUMNS)
    sheet_HW = np.zeros((rows * (TILE + GAP) - GAP, COLUMNS * (TILE + GAP) - GAP), dtype=np.uint8)
    for place, shown in enumerate(tiles):
        top, left = place // COLUMNS * (TILE + GAP), place % COLUMNS * (TILE + GAP)
        sheet_HW[top : top + TILE, left : left + TILE] = shown
    return sheet_HW
