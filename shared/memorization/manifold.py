"""Precision and recall of Kynkäänniemi et al. (2019), density and coverage of Naeem et al. (2020), by balls around features.

A ball reaches from a point to its k-th nearest neighbour in its own set. Precision: the share of generated images in a ball of real
films; recall: of real films in a ball of generated images; density: in how many balls of real films a generated image lies, over k;
coverage: the share of real films whose ball holds a generated image. M queries, N points, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.memorization.distances import BLOCK_BYTES, Floats, distance_blocks
from shared.memorization.rewards.names import NEIGHBOURS


@dataclass(frozen=True)
class Manifold:
    """A set of features with the radius of each one's ball; on the rim is outside, so that a set has density 1 in itself."""

    points_ND: Floats
    radii_N: Floats
    neighbours: int

    @classmethod
    def of(cls, points_ND: Floats, neighbours: int = NEIGHBOURS, *, block_bytes: int = BLOCK_BYTES) -> Self:
        """The balls of a set; it needs more points than a point has neighbours."""
        if len(points_ND) <= neighbours:
            raise ValueError(f"balls that reach to neighbour {neighbours} need more points than {len(points_ND)}")
        # Of each block the distances to all points are known, and each point is its own nearest.
        radii = [
            distance_NB.kthvalue(neighbours + 1, 0).values
            for _, distance_NB in distance_blocks(points_ND, points_ND, block_bytes=block_bytes)
        ]
        return cls(points_ND, np.asarray(torch.cat(radii).numpy()), neighbours)

    def balls_around(self, queries_MD: Floats, *, block_bytes: int = BLOCK_BYTES) -> NDArray[np.int64]:
        """In how many balls each query lies, M."""
        count_M = torch.zeros(len(queries_MD), dtype=torch.int64)
        for inside_MB in self._inside(queries_MD, block_bytes):
            count_M += inside_MB.sum(1)
        return np.asarray(count_M.numpy())

    def reached_by(self, queries_MD: Floats, *, block_bytes: int = BLOCK_BYTES) -> NDArray[np.bool_]:
        """Whether each ball holds a query, N."""
        return np.asarray(torch.cat([inside_MB.any(0) for inside_MB in self._inside(queries_MD, block_bytes)]).numpy())

    def _inside(self, queries_MD: Floats, block_bytes: int) -> Iterator[Tensor]:
        """Whether each query lies in each ball, some balls at a time: M×B."""
        radii_N = torch.from_numpy(self.radii_N)
        for block, distance_MB in distance_blocks(queries_MD, self.points_ND, block_bytes=block_bytes):
            yield distance_MB < radii_N[block]
