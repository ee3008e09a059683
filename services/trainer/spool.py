"""Parquet files that a registration keeps while it runs: named by their digest once they are whole, so that a second attempt can tell."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

_PARTIAL: Final = ".partial"


class SpoolWriter:
    """Writes {name}-{sha256}.parquet group by group; a process that is killed on the way leaves nothing that `find_spooled` finds."""

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        self._folder = folder
        self._name = name
        self._partial = folder / f"{name}{_PARTIAL}"
        self._writer = pq.ParquetWriter(self._partial, schema, compression="NONE", use_dictionary=False, write_statistics=False)

    def write(self, rows: pa.Table) -> None:
        """Add one row group."""
        self._writer.write_table(rows, row_group_size=max(1, len(rows)))

    def close(self) -> None:
        """Stop without keeping anything, unless `keep` came before."""
        self._writer.close()
        self._partial.unlink(missing_ok=True)

    def keep(self) -> Path:
        """End the file and give it its name."""
        self._writer.close()
        target = self._folder / f"{self._name}-{_digest(self._partial)}.parquet"
        self._partial.replace(target)
        return target


def find_spooled(folder: Path, name: str) -> Path | None:
    """The whole file of this name; what is damaged is removed."""
    for path in sorted(folder.glob(f"{name}-*.parquet")):
        if path.stem == f"{name}-{_digest(path)}":
            return path
        path.unlink()
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
