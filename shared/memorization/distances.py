"""Distances between two sets of features, in blocks: ‖x − y‖₂ in fp64, whatever the number of films.

M queries, N points, B points of a block, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK_BYTES: Final = 64 * 2**20  # distances held at a time
_FLOAT_BYTES: Final = 8

Floats = NDArray[np.float64]


def distance_blocks(queries_MD: Floats, points_ND: Floats, *, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[slice, Tensor]]:
    """The distances of all queries to some of the points at a time, M×B, with where these points stand."""
    rows = max(1, block_bytes // (_FLOAT_BYTES * max(1, len(queries_MD))))
    queries = torch.from_numpy(queries_MD)
    for start in range(0, len(points_ND), rows):
        block = slice(start, start + rows)
        yield block, torch.cdist(queries, torch.from_numpy(points_ND[block]))


def least_distances(queries_MD: Floats, points_ND: Floats, *, block_bytes: int = BLOCK_BYTES) -> Floats:
    """Each query's distance to the nearest point, M. Its mean over generated images is AMD (Dutt et al., WACV 2025)."""
    least_M = torch.full((len(queries_MD),), torch.inf, dtype=torch.float64)
    for _, distance_MB in distance_blocks(queries_MD, points_ND, block_bytes=block_bytes):
        least_M = torch.minimum(least_M, distance_MB.amin(1))
    return np.asarray(least_M.numpy())
