"""Tile-maximum L2 distance between images (Carlini et al., USENIX Security 2023): flat background cannot hide a difference.

M queries, N gallery images, H height, W width, G tiles.
"""

from __future__ import annotations

import itertools
from typing import Final

import torch
from torch import Tensor

TILES: Final = 4  # tiles along each side


def tile_max_distance(queries_MHW: Tensor, gallery_NHW: Tensor) -> Tensor:
    """The largest root-mean-square difference over a 4×4 grid of tiles, for every pair: M×N, in units of the grey range [0, 1].

    Per tile ‖x − y‖² = ‖x‖² + ‖y‖² − 2⟨x, y⟩, one matrix product a tile; in fp64, because the subtraction cancels where x ≈ y.
    """
    largest_MN = torch.zeros(len(queries_MHW), len(gallery_NHW), dtype=torch.float64, device=queries_MHW.device)
    for row, column in itertools.product(range(TILES), range(TILES)):
        queries_MD, gallery_ND = (_tile(images, row, column).double() for images in (queries_MHW, gallery_NHW))
        distance_MN = torch.cdist(queries_MD, gallery_ND, compute_mode="use_mm_for_euclid_dist") / queries_MD.shape[1] ** 0.5
        largest_MN = torch.maximum(largest_MN, distance_MN)
    return largest_MN.float()


def paired_tile_max_distance(left_BHW: Tensor, right_BHW: Tensor) -> Tensor:
    """The same distance for row-by-row pairs, B."""
    places = itertools.product(range(TILES), range(TILES))
    differences_GBD = torch.stack([_tile(left_BHW, row, column) - _tile(right_BHW, row, column) for row, column in places])
    return differences_GBD.square().mean(2).amax(0).sqrt()


def _tile(images_NHW: Tensor, row: int, column: int) -> Tensor:
    """One tile of every image, N×D; integers become floats in [0, 1] first, because bytes wrap on subtraction."""
    height, width = images_NHW.shape[1] // TILES, images_NHW.shape[2] // TILES
    cut = images_NHW[:, row * height : (row + 1) * height, column * width : (column + 1) * width].flatten(1)
    return cut.float() / 255 if cut.dtype == torch.uint8 else cut.float()
