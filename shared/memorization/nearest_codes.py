"""Exact search of codes in a gallery, in blocks: no approximate index stands behind a verdict about a patient.

M queries, N gallery films, D code features, K neighbours.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

BLOCK_BYTES: Final = 64 * 2**20  # similarities held at a time
_FLOAT_BYTES: Final = 4


def most_similar(queries_MD: Tensor, gallery_ND: Tensor, k: int, *, block_bytes: int = BLOCK_BYTES) -> tuple[Tensor, Tensor]:
    """Similarities and positions of each query's k nearest films, M×K each, best first; equal ones by position.

    Codes are of unit length, so that the product is the correlation. K is smaller than k where the gallery is.
    """
    rows = max(1, block_bytes // (_FLOAT_BYTES * max(1, len(queries_MD))))
    best_MK = torch.empty(len(queries_MD), 0)
    where_MK = torch.empty(len(queries_MD), 0, dtype=torch.int64)
    for start in range(0, len(gallery_ND), rows):
        similarity_MB = queries_MD.float() @ gallery_ND[start : start + rows].float().T
        positions_MB = torch.arange(start, start + similarity_MB.shape[1]).expand_as(similarity_MB)
        # What was found earlier stands first, and a stable sort keeps it before its equals.
        known_MB, places_MB = torch.cat([best_MK, similarity_MB], 1), torch.cat([where_MK, positions_MB], 1)
        order_MK = known_MB.sort(dim=1, descending=True, stable=True).indices[:, :k]
        best_MK, where_MK = known_MB.gather(1, order_MK), places_MB.gather(1, order_MK)
    return best_MK, where_MK
