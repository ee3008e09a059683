"""How often a batch filter left each film out: the films that are skipped most are those that are learnt by heart. N films, B batch."""

from __future__ import annotations

from pathlib import Path
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
SKIPPED_BATCHES: Final = 100  # in a row: a training whose filter keeps nothing of them learns nothing more


class SkipCounts:
    """Visits and skips of every film."""

    def __init__(self, films: TrainingSet, device: torch.device) -> None:
        """Nothing visited yet."""
        self.records_N = films.records
        self.visits_N = torch.zeros(len(films.prompts), dtype=torch.int64, device=device)
        self.skips_N = torch.zeros_like(self.visits_N)
        self.skipped_batches = 0

    def add(self, rows_B: NDArray[np.int64], kept_B: Tensor) -> None:
        """Count a batch; raises when too many in a row were skipped whole."""
        rows = torch.from_numpy(rows_B).to(self.visits_N.device)
        self.visits_N.index_add_(0, rows, torch.ones_like(rows))
        self.skips_N.index_add_(0, rows, (~kept_B).long())
        self.skipped_batches = 0 if bool(kept_B.any()) else self.skipped_batches + 1
        if self.skipped_batches == SKIPPED_BATCHES:
            raise InvalidRequestError(
                f"The batch filter kept nothing of {SKIPPED_BATCHES} batches in a row; let it keep more.", field="batch_filter"
            )

    def totals(self) -> dict[str, Any]:
        """The sums that go into a model's metrics."""
        return {
            "visited_samples": int(self.visits_N.sum()),
            "skipped_samples": int(self.skips_N.sum()),
            "skipped_films": int((self.skips_N > 0).sum()),
        }

    def write(self, folder: Path) -> None:
        """The visited films as Parquet by their numbers in the data set, those that were skipped at most of their visits first."""
        visits_N, skips_N = self.visits_N.cpu().numpy(), self.skips_N.cpu().numpy()
        order = np.lexsort((self.records_N, -skips_N / np.maximum(visits_N, 1)))
        order = order[visits_N[order] > 0]
        columns = {"record": self.records_N[order], "visits": visits_N[order], "skips": skips_N[order]}
        pq.write_table(pa.table(columns), folder / SKIPS_NAME)

    def state(self) -> State:
        """The counts."""
        return State({"visits": self.visits_N, "skips": self.skips_N}, {"skipped_batches": self.skipped_batches})

    def restore(self, state: State) -> None:
        """Count on from there."""
        self.visits_N.copy_(state.tensors["visits"])
        self.skips_N.copy_(state.tensors["skips"])
        self.skipped_batches = int(state.facts["skipped_batches"])
