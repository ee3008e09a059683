"""The file that says which films went where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from services.trainer.ensemble.move_log import MOVES_NAME, moved_records, write_moves

if TYPE_CHECKING:
    from pathlib import Path


def test_moves_are_written_in_order_without_patients(tmp_path: Path) -> None:
    write_moves(tmp_path, np.array([[3, 17, 0, 1], [4, 2, 1, 0]]))
    assert pq.read_table(tmp_path / MOVES_NAME).to_pylist() == [
        {"round": 3, "record": 17, "from_shard": 0, "to_shard": 1},
        {"round": 4, "record": 2, "from_shard": 1, "to_shard": 0},
    ]


def test_training_in_which_nobody_moved_has_an_empty_log(tmp_path: Path) -> None:
    write_moves(tmp_path, np.empty((0, 4), dtype=np.int64))
    assert pq.read_table(tmp_path / MOVES_NAME).num_rows == 0


def test_film_that_moved_twice_is_one_film() -> None:
    assert moved_records(np.array([[3, 17, 0, 1], [3, 2, 1, 0], [4, 17, 1, 2]])).tolist() == [2, 17]
    assert moved_records(np.empty((0, 4), dtype=np.int64)).tolist() == []
