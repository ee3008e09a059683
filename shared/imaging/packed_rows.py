"""Small whole numbers of a table's rows, found by key: 8 bytes a row for the key, and one for each number."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from shared.imaging.tables import key_digest


class PackedRows:
    """Holds `width` numbers from -128 to 127 a row; of several rows with one key, the last counts."""

    def __init__(self, rows: Iterable[tuple[str, Sequence[int]]], *, width: int) -> None:
        """Take rows as they come."""
        keys, values = array("Q"), array("b")
        for key, numbers in rows:
            if len(numbers) != width:
                raise ValueError(f"numbers must be {width} a row, not {len(numbers)}")
            keys.append(key_digest(key))
            values.extend(numbers)
        unsorted = np.frombuffer(keys, dtype=np.uint64)
        order = np.argsort(unsorted, kind="stable")
        self._keys = unsorted[order]
        self._values = np.frombuffer(values, dtype=np.int8).reshape(-1, width)[order]

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def size_bytes(self) -> int:
        """What is held in memory."""
        return self._keys.nbytes + self._values.nbytes

    def find(self, key: str) -> list[int] | None:
        """The numbers of the row with this key."""
        wanted = np.uint64(key_digest(key))
        last = int(np.searchsorted(self._keys, wanted, side="right")) - 1
        if last < 0 or self._keys[last] != wanted:
            return None
        numbers: list[int] = self._values[last].tolist()
        return numbers
