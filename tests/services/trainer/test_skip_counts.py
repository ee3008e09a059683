"""How often films were left out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest

from services.trainer.skip_counts import SKIPPED_BATCHES, SKIPS_NAME, SkipCounts, _sure_rates
from shared.diffusion.checkpoints import State
from shared.errors import InvalidRequestError
from tests.training_films import films

if TYPE_CHECKING:
    from pathlib import Path

FILMS = replace(films(), records=np.array([10, 11, 12, 13]))


def counted() -> SkipCounts:
    """Film 3 three times, once skipped; film 1 once and skipped; film 0 once and kept; film 2 never."""
    counts = SkipCounts(FILMS)
    counts.add(np.array([3, 1, 3]), np.array([True, False, False]))
    counts.add(np.array([0, 3]), np.array([True, True]), np.array([3]))
    return counts


def test_counts_are_by_film() -> None:
    counts = counted()
    assert counts.visits_N.tolist() == [1, 1, 0, 3]
    assert counts.skips_N.tolist() == [0, 1, 0, 1]
    assert counts.totals() == {"visited_samples": 5, "skipped_samples": 2, "skipped_films": 2, "augmented_samples": 1}


def test_table_names_records_most_skipped_first(tmp_path: Path) -> None:
    counted().write(tmp_path)
    columns = pq.read_table(tmp_path / SKIPS_NAME).to_pydict()
    assert columns == {
        "record": [11, 13, 10],
        "visits": [1, 3, 1],
        "skips": [1, 1, 0],
        "augmented": [0, 1, 0],
    }


def test_few_visits_that_were_all_skipped_come_after_many_that_mostly_were(tmp_path: Path) -> None:
    """Wilson's lower bounds by hand: 2 of 2 are at least 0.342, 80 of 100 at least 0.711, 5 of 10 at least 0.237."""
    counts = SkipCounts(FILMS)
    for film, visits, skips in ((0, 2, 2), (1, 100, 80), (2, 10, 5)):
        counts.add(np.full(visits, film), np.arange(visits) >= skips)
    counts.write(tmp_path)
    assert pq.read_table(tmp_path / SKIPS_NAME).column("record").to_pylist() == [11, 10, 12]
    assert _sure_rates(np.array([2, 80, 5, 0]), np.array([2, 100, 10, 9])).tolist() == pytest.approx([0.342, 0.711, 0.237, 0], abs=5e-4)


def test_restored_counts_go_on() -> None:
    kept = counted().state().copied()
    other = SkipCounts(FILMS)
    other.restore(State(kept.tensors, json.loads(json.dumps(kept.facts))))
    other.add(np.array([2]), np.array([False]))
    assert other.visits_N.tolist() == [1, 1, 1, 3]
    assert other.skips_N.tolist() == [0, 1, 1, 1]
    assert other.augmented_N.tolist() == [0, 0, 0, 1]


def test_counts_of_parts_of_the_films_add_up() -> None:
    whole, part = counted(), SkipCounts(FILMS.subset(np.array([2, 0])))
    part.add(np.array([0, 1, 0]), np.array([True, False, False]), np.array([1]))
    whole.include(np.array([2, 0]), part.state())
    assert whole.visits_N.tolist() == [2, 1, 2, 3]
    assert whole.skips_N.tolist() == [1, 1, 1, 1]
    assert whole.augmented_N.tolist() == [1, 0, 0, 1]


def test_filter_that_keeps_nothing_for_long_ends_the_training() -> None:
    counts, nothing = SkipCounts(FILMS), np.array([False])
    for _ in range(SKIPPED_BATCHES - 1):
        counts.add(np.array([0]), nothing)
    counts.add(np.array([0]), np.array([True]))
    for _ in range(SKIPPED_BATCHES - 1):
        counts.add(np.array([0]), nothing)
    with pytest.raises(InvalidRequestError, match="kept nothing of 100 batches") as raised:
        counts.add(np.array([0]), nothing)
    assert raised.value.field == "batch_filter"
