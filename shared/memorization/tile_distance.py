"""Tile-maximum L2 distance between images (Carlini et al., USENIX Security 2023): flat background cannot hide a difference.

M queries, N gallery images, H height, W width, G tiles.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

TILES: Final = 4  # tiles along each side


def tile_max_distance(queries_MHW: Tensor, gallery_NHW: Tensor) -> Tensor:
    """The largest root-mean-square difference over a 4×4 grid of tiles, for every pair: M×N, in units of the grey range [0, 1].

    Per tile ‖x − y‖² = ‖x‖² + ‖y‖² − 2⟨x, y⟩, one matrix product a tile.
    """
    queries_GMD, gallery_GND = _tiles(queries_MHW), _tiles(gallery_NHW)
    squared = torch.cdist(queries_GMD, gallery_GND, compute_mode="use_mm_for_euclid_dist").square() / queries_GMD.shape[2]
    return squared.amax(0).sqrt()


def paired_tile_max_distance(left_BHW: Tensor, right_BHW: Tensor) -> Tensor:
    """The same distance for row-by-row pairs, B."""
    difference_GBD = _tiles(left_BHW) - _tiles(right_BHW)
    return difference_GBD.square().mean(2).amax(0).sqrt()


def _tiles(images_NHW: Tensor) -> Tensor:
    """Images cut into tiles, G×N×D; integers become floats in [0, 1] first, because bytes wrap on subtraction."""
    images = images_NHW.float() / 255 if images_NHW.dtype == torch.uint8 else images_NHW.float()
    count, height, width = images.shape
    cut = images.reshape(count, TILES, height // TILES, TILES, width // TILES)
    return cut.permute(1, 3, 0, 2, 4).reshape(TILES * TILES, count, -1)
