"""Whether a file is DICOM, by its content or its name; the libraries that read it are imported by whoever meets one."""

from __future__ import annotations

from pathlib import PurePath
from typing import IO, Final

_MAGIC_OFFSET: Final = 128
_MAGIC: Final = b"DICM"
_SUFFIXES: Final = frozenset({".dcm", ".dicom"})


def says_dicom(file: IO[bytes]) -> bool:
    """Whether an open file has DICOM's mark; it stands at its beginning afterwards."""
    magic = file.read(_MAGIC_OFFSET + len(_MAGIC))[_MAGIC_OFFSET:]
    file.seek(0)
    return magic == _MAGIC


def is_called_dicom(path: PurePath) -> bool:
    """Whether a file's name says that it is DICOM."""
    return path.suffix.lower() in _SUFFIXES
