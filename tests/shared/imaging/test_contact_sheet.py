"""The sheet of sample films."""

from __future__ import annotations

import numpy as np
import pytest

from shared.imaging.contact_sheet import COLUMNS, GAP, SAMPLES, TILE, contact_sheet, sample_positions, tile


@pytest.mark.parametrize("count", [1, 2, 23, 24, 25, 1000])
def test_samples_are_spread_from_the_first_to_the_last(count: int) -> None:
    positions = sample_positions(count)
    assert len(positions) == min(count, SAMPLES)
    assert positions[0] == 0
    assert positions[-1] == count - 1


def test_tiles_lie_row_by_row() -> None:
    tiles = [np.full((TILE, TILE), number * 10, np.uint8) for number in range(1, COLUMNS + 2)]
    sheet = contact_sheet(tiles)
    assert sheet.shape == (2 * TILE + GAP, COLUMNS * (TILE + GAP) - GAP)
    assert sheet[0, 0] == 10
    assert sheet[0, -1] == COLUMNS * 10
    assert sheet[-1, 0] == (COLUMNS + 1) * 10
    assert sheet[-1, -1] == 0


def test_tile_has_one_size() -> None:
    assert tile(np.zeros((16, 16), np.uint8)).shape == tile(np.zeros((512, 512), np.uint8)).shape == (TILE, TILE)
