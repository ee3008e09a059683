"""Numbers of rows are found by key, and held in few bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.imaging.packed_rows import PackedRows


@given(st.lists(st.tuples(st.text(max_size=3), st.lists(st.integers(-128, 127), min_size=2, max_size=2)), max_size=30))
def test_last_row_of_each_key_is_found(rows: list[tuple[str, list[int]]]) -> None:
    packed = PackedRows(rows, width=2)
    assert {key: packed.find(key) for key, _ in rows} == dict(rows)
    assert packed.find("unheard of") is None
    assert (len(packed), packed.size_bytes) == (len(rows), 10 * len(rows))


def test_row_of_another_width_is_a_defect() -> None:
    with pytest.raises(ValueError, match="numbers must be 2 a row, not 1"):
        PackedRows([("a", [1])], width=2)
