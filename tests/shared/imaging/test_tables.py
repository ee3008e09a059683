"""Tables are read row by row, whatever a hospital's export did to them, and rows are found again by key."""

from __future__ import annotations

import gzip
import hashlib
import tracemalloc
from pathlib import Path

import pytest

from shared.errors import DatasetError
from shared.imaging.sources import RowProblems
from shared.imaging.tables import MAX_LINE_BYTES, RowIndex, fingerprint_of, read_rows

Rows = list[tuple[int, dict[str, str]]]


def read(path: Path, *needed: str) -> tuple[Rows, list[str]]:
    """The rows, and what was wrong."""
    problems = RowProblems()
    rows = list(read_rows(path, needed, problems))
    return rows, problems._told


@pytest.mark.parametrize(
    "content",
    [b"a,b\n1,2\n3,4\n", b"\xef\xbb\xbfa,b\r\n1,2\r\n3,4", b'\xef\xbb\xbf"a","b"\n"1","2"\n"3","4"\n'],
    ids=["plain", "mark and CRLF", "mark and quotes"],
)
def test_exports_of_every_kind_read_alike(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(content))
    expected = ([(2, {"a": "1", "b": "2"}), (3, {"a": "3", "b": "4"})], [])
    assert read(tmp_path / "t.csv", "a", "b") == read(tmp_path / "t.csv.gz", "b") == expected


def test_row_is_named_by_the_line_it_begins_on(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'a,b\n1,"x\ny\nz"\n\n2,w\n')
    rows, problems = read(tmp_path / "t.csv")
    assert ([line for line, _ in rows], problems) == ([2, 6], [])


def test_rows_behind_a_broken_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'a,b\n1,2\n\xff,2\n3,"x"y\n4\n5,6,7\n8,9\n')
    rows, problems = read(tmp_path / "t.csv")
    assert [row["a"] for _, row in rows] == ["1", "8"]
    assert problems == [
        "t.csv, line 3: not a row of CSV in UTF-8",
        "t.csv, line 4: not a row of CSV in UTF-8",
        "t.csv, line 5: not as many values as columns",
        "t.csv, line 6: not as many values as columns",
    ]


def test_file_without_line_ends_is_no_table_and_fills_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("wb") as file:
        file.write(b"a,b\n")
        file.truncate(20 * MAX_LINE_BYTES)
    tracemalloc.start()
    _, problems = read(tmp_path / "t.csv")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert problems[0] == "t.csv, line 2: not a row of CSV in UTF-8"
    assert peak < 5 * MAX_LINE_BYTES


def test_damaged_archive_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(b"a,b\n" + b"1,2\n" * 1000)
    (tmp_path / "t.csv.gz").write_bytes(whole[:-20])
    with pytest.raises(DatasetError, match=r"t\.csv\.gz cannot be read as a table"):
        read(tmp_path / "t.csv.gz")


def test_fingerprint_is_the_tables_own_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    assert fingerprint_of([tmp_path / "a"]) == hashlib.sha256(b"1").hexdigest()
    assert fingerprint_of([tmp_path / "a", tmp_path / "b"]) != fingerprint_of([tmp_path / "b", tmp_path / "a"])


# ---------------------------------------------------------------- rows by key


def index_of(path: Path) -> RowIndex:
    return RowIndex(path, ("key",), lambda row: row["key"].lower(), RowProblems())


def test_rows_are_found_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes('\ufeffkey,text\r\nA,"one\r\n1"\r\nB,zwei ü\r\nA,three\r\n'.encode())
    with index_of(tmp_path / "t.csv").open() as find:
        assert find("b") == {"key": "B", "text": "zwei ü"}
        assert find("a") == {"key": "A", "text": "three"}, "the last of several"
        assert find("c") is None


def test_index_holds_a_few_bytes_a_row(tmp_path: Path) -> None:
    count = 20_000
    with (tmp_path / "t.csv").open("w") as file:
        file.write("key,text\n")
        file.writelines(f"{n},{'words ' * 50}\n" for n in range(count))
    tracemalloc.start()
    index = index_of(tmp_path / "t.csv")
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 40 * count
    with index.open() as find:
        assert find("12345") is not None


def test_packed_table_is_not_looked_up(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"key\n1\n"))
    with pytest.raises(DatasetError, match="must not be packed"):
        index_of(tmp_path / "t.csv.gz")
