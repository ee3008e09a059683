"""Brightness of pictures with more than eight bits, from 0 (black) to 1 (white).

Shape suffixes: H height, W width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def stretch(values_HW: NDArray[Any], seen_HW: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Values from the darkest to the brightest of those that are seen as 0 to 1; a picture of one value is black."""
    seen = values_HW if seen_HW is None else values_HW[seen_HW]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
    return clip_brightness((values_HW.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1e-6)))


def clip_brightness(bright_HW: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same array, with what is darker than black or brighter than white cut off."""
    np.clip(bright_HW, 0, 1, out=bright_HW)
    return bright_HW
