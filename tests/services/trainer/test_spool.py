"""Files that a registration keeps while it runs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.trainer.spool import SpoolWriter, find_spooled

SCHEMA = pa.schema([("number", pa.int64())])


def rows(*numbers: int) -> pa.Table:
    return pa.table({"number": list(numbers)}, schema=SCHEMA)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    writer = SpoolWriter(tmp_path, "rows", SCHEMA)
    writer.write(rows(1, 2))
    writer.write(rows(3))
    path = writer.keep()
    writer.close()
    return path


def test_kept_file_is_found_with_its_groups(kept: Path) -> None:
    assert find_spooled(kept.parent, "rows") == kept
    assert [pq.read_metadata(kept).row_group(number).num_rows for number in range(2)] == [2, 1]
    assert [path for path in kept.parent.iterdir() if path != kept] == []


def test_damaged_file_is_removed(kept: Path) -> None:
    data = bytearray(kept.read_bytes())
    data[20] ^= 1
    kept.write_bytes(data)
    assert find_spooled(kept.parent, "rows") is None
    assert not kept.exists()


def test_unfinished_file_is_not_found(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "rows", SCHEMA)
    writer.write(rows(1))
    assert find_spooled(tmp_path, "rows") is None
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_names_are_told_apart(kept: Path) -> None:
    assert find_spooled(kept.parent, "row") is None
    assert find_spooled(kept.parent, "pictures") is None
