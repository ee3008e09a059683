"""How often films were left out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from services.trainer.skip_counts import SKIPPED_BATCHES, SKIPS_NAME, SkipCounts
from shared.diffusion.checkpoints import State
from shared.errors import InvalidRequestError
from tests.training_films import films

if TYPE_CHECKING:
    from pathlib import Path

FILMS = replace(films(), records=np.array([10, 11, 12, 13]))


def counted() -> SkipCounts:
    """Film 3 three times, once skipped; film 1 once and skipped; film 0 once and kept; film 2 never."""
    counts = SkipCounts(FILMS, torch.device("cpu"))
    counts.add(np.array([3, 1, 3]), torch.tensor([True, False, False]))
    counts.add(np.array([0, 3]), torch.tensor([True, True]))
    return counts


def test_counts_are_by_film() -> None:
    counts = counted()
    assert counts.visits_N.tolist() == [1, 1, 0, 3]
    assert counts.skips_N.tolist() == [0, 1, 0, 1]
    assert counts.totals() == {"visited_samples": 5, "skipped_samples": 2, "skipped_films": 2}


def test_table_names_records_most_skipped_first(tmp_path: Path) -> None:
    counted().write(tmp_path)
    assert pq.read_table(tmp_path / SKIPS_NAME).to_pydict() == {"record": [11, 13, 10], "visits": [1, 3, 1], "skips": [1, 1, 0]}


def test_restored_counts_go_on() -> None:
    kept = counted().state().copied()
    other = SkipCounts(FILMS, torch.device("cpu"))
    other.restore(State(kept.tensors, json.loads(json.dumps(kept.facts))))
    other.add(np.array([2]), torch.tensor([False]))
    assert other.visits_N.tolist() == [1, 1, 1, 3]
    assert other.skips_N.tolist() == [0, 1, 1, 1]


def test_filter_that_keeps_nothing_for_long_ends_the_training() -> None:
    counts, nothing = SkipCounts(FILMS, torch.device("cpu")), torch.tensor([False])
    for _ in range(SKIPPED_BATCHES - 1):
        counts.add(np.array([0]), nothing)
    counts.add(np.array([0]), torch.tensor([True]))
    for _ in range(SKIPPED_BATCHES - 1):
        counts.add(np.array([0]), nothing)
    with pytest.raises(InvalidRequestError, match="kept nothing of 100 batches") as raised:
        counts.add(np.array([0]), nothing)
    assert raised.value.field == "batch_filter"
