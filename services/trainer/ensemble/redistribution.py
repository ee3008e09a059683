"""Films that a shard skips often go to another shard, which has not learnt them. N films, P patients of a shard."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def redistribute(
    shards_N: NDArray[np.int64], patients_N: NDArray[np.int64], visits_N: NDArray[np.int64], skips_N: NDArray[np.int64], share: float
) -> NDArray[np.int64]:
    """Every film's shard, after this share of each shard's patients, those skipped most, swapped with the next shard's skipped least.

    The idea is of IET-AGC+ (Guan et al. 2025); the rule is our reconstruction. A patient moves with all its films, every shard keeps
    its number of patients, and only patients that were visited in the round and are skipped more than those they swap with are swapped.
    """
    count = int(shards_N.max()) + 1
    ranked = [_by_skip_rate(np.flatnonzero(shards_N == shard), patients_N, visits_N, skips_N) for shard in range(count)]
    patients_K = [len(np.unique(patients_N[shards_N == shard])) for shard in range(count)]
    moved_N = shards_N.copy()
    for source in range(count if count > 1 else 0):
        target = (source + 1) % count
        # At most half of each shard leaves as the most skipped, and half as the least, so that nobody does both.
        swaps = min(math.ceil(round(share * patients_K[source], 9)), len(ranked[source]) // 2, len(ranked[target]) // 2)
        for (high, often), (low, seldom) in zip(ranked[source][::-1][:swaps], ranked[target][:swaps], strict=True):
            if often > seldom:
                moved_N[patients_N == high], moved_N[patients_N == low] = target, source
    return moved_N


def _by_skip_rate(
    rows: NDArray[np.int64], patients_N: NDArray[np.int64], visits_N: NDArray[np.int64], skips_N: NDArray[np.int64]
) -> list[tuple[int, float]]:
    """The patients of these films that were visited, with their rates, those skipped least first."""
    patients_P, place = np.unique(patients_N[rows], return_inverse=True)
    visits_P, skips_P = (np.bincount(place, weights=counts[rows], minlength=len(patients_P)) for counts in (visits_N, skips_N))
    seen = np.flatnonzero(visits_P > 0)
    rates = skips_P[seen] / visits_P[seen]
    order = np.lexsort((patients_P[seen], rates))
    return [(int(patients_P[seen[i]]), float(rates[i])) for i in order]
