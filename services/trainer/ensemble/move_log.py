"""Which films went from one shard of an ensemble to another, and when: a file beside the model. M moves."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

MOVES_NAME: Final = "moves.parquet"
COLUMNS: Final = ("round", "record", "from_shard", "to_shard")


def moved_records(moves_M4: NDArray[np.int64]) -> NDArray[np.int64]:
    """The films that went elsewhere, each once however often."""
    return np.unique(moves_M4[:, COLUMNS.index("record")])


def write_moves(folder: Path, moves_M4: NDArray[np.int64]) -> None:
    """All moves in order, films by their numbers in the data set; the films of a patient move together, and no patient is named."""
    pq.write_table(pa.table(dict(zip(COLUMNS, moves_M4.T, strict=True))), folder / MOVES_NAME)
