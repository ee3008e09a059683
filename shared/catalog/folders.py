"""The files of a local folder as manifest entries, and whether a folder still is what its entries say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from shared.catalog.manifests import FileEntry
from shared.errors import InvalidRequestError
from shared.storage import validate_key


def describe_folder(folder: Path) -> list[FileEntry]:
    """Every file below a folder with size and SHA-256, by path; links and odd names are refused."""
    return [_entry(folder, path) for path in sorted(_files(folder))]


def folder_matches(folder: Path, entries: Iterable[FileEntry]) -> bool:
    """Whether a folder holds exactly these files with exactly these bytes."""
    expected = {entry.path: entry for entry in entries}
    try:
        found = {path.relative_to(folder).as_posix() for path in _files(folder)}
        return found == expected.keys() and all(_entry(folder, folder / path) == entry for path, entry in expected.items())
    except (InvalidRequestError, FileNotFoundError):
        # A link or an odd name that was never committed, or a file that went while it was read.
        return False


def file_matches(path: Path, entry: FileEntry) -> bool:
    """Whether a file is there and has exactly an entry's bytes."""
    try:
        with path.open("rb") as source:
            return hashlib.file_digest(source, "sha256").hexdigest() == entry.sha256
    except FileNotFoundError:
        return False


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise InvalidRequestError(f"{path.relative_to(folder).as_posix()!r} is a link; only plain files are kept.")
        if not path.is_dir():
            yield path


def _entry(folder: Path, path: Path) -> FileEntry:
    relative = validate_key(path.relative_to(folder).as_posix())
    with path.open("rb") as source:
        sha256 = hashlib.file_digest(source, "sha256").hexdigest()
        return FileEntry(path=relative, size_bytes=source.tell(), sha256=sha256)
