"""How often a batch filter left each film out: the films that are skipped most are those that are learnt by heart.

N films, B batch, A films that were shown changed.
"""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.trainer.training_set import TrainingSet
from shared.diffusion.checkpoints import State
from shared.errors import InvalidRequestError

SKIPS_NAME: Final = "skips.parquet"
NOBODY: Final[NDArray[np.int64]] = np.empty(0, dtype=np.int64)
SKIPPED_BATCHES: Final = 100  # in a row: a training whose filter keeps nothing of them learns nothing more


class SkipCounts:
    """Visits of every film, at how many it was left out, and at how many shown changed."""

    def __init__(self, films: TrainingSet) -> None:
        """Nothing visited yet."""
        self.records_N = films.records
        self.visits_N = torch.zeros(len(films.prompts), dtype=torch.int64)
        self.skips_N = torch.zeros_like(self.visits_N)
        self.augmented_N = torch.zeros_like(self.visits_N)
        self.skipped_batches = 0

    def add(self, rows_B: NDArray[np.int64], kept_B: NDArray[np.bool_], changed_A: NDArray[np.int64] = NOBODY) -> None:
        """Count a batch, some of whose films were shown changed; raises when too many in a row were skipped whole."""
        for counts_N, rows in ((self.visits_N, rows_B), (self.skips_N, rows_B[~kept_B]), (self.augmented_N, changed_A)):
            counts_N.index_add_(0, torch.from_numpy(rows), torch.ones(len(rows), dtype=torch.int64))
        self.skipped_batches = 0 if kept_B.any() else self.skipped_batches + 1
        if self.skipped_batches == SKIPPED_BATCHES:
            raise InvalidRequestError(
                f"The batch filter kept nothing of {SKIPPED_BATCHES} batches in a row; let it keep more.", field="batch_filter"
            )

    def include(self, rows: NDArray[np.int64], counted: State) -> None:
        """Add what was counted of these films elsewhere."""
        for name, counts_N in self._counts().items():
            counts_N.index_add_(0, torch.from_numpy(rows), counted.tensors[name])

    def totals(self) -> dict[str, Any]:
        """The sums that go into a model's metrics."""
        return {
            "visited_samples": int(self.visits_N.sum()),
            "skipped_samples": int(self.skips_N.sum()),
            "skipped_films": int((self.skips_N > 0).sum()),
            "augmented_samples": int(self.augmented_N.sum()),
        }

    def write(self, folder: Path) -> None:
        """The visited films as Parquet by their numbers in the data set, those that are surely skipped most first."""
        counts = {name: counts_N.numpy() for name, counts_N in self._counts().items()}
        order = np.lexsort((self.records_N, -_sure_rates(counts["skips"], np.maximum(counts["visits"], 1))))
        order = order[counts["visits"][order] > 0]
        columns = {"record": self.records_N} | counts
        pq.write_table(pa.table({name: column[order] for name, column in columns.items()}), folder / SKIPS_NAME)

    def state(self) -> State:
        """The counts."""
        return State(self._counts(), {"skipped_batches": self.skipped_batches})

    def restore(self, state: State) -> None:
        """Count on from there."""
        for name, counts_N in self._counts().items():
            counts_N.copy_(state.tensors[name])
        self.skipped_batches = int(state.facts["skipped_batches"])

    def _counts(self) -> dict[str, Tensor]:
        return {"visits": self.visits_N, "skips": self.skips_N, "augmented": self.augmented_N}


def _sure_rates(skips_N: NDArray[np.int64], visits_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """What each film's share of skipped visits is at least, at 95 % (Wilson's bound): a few visits may all be skipped by chance."""
    z2, rates_N = NormalDist().inv_cdf(0.975) ** 2, skips_N / visits_N
    spread_N = np.sqrt(z2 * rates_N * (1 - rates_N) / visits_N + (z2 / visits_N) ** 2 / 4)
    bounds_N: NDArray[np.float64] = (rates_N + z2 / visits_N / 2 - spread_N) / (1 + z2 / visits_N)
    return bounds_N
