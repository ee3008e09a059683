"""Files that appear whole or not at all, and stay after a power cut."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from shared.errors import UnavailableError
from shared.storage.verification import verify_digest

CHUNK_BYTES = 1024 * 1024
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_durable(chunks: Iterable[bytes], *, target: Path, if_absent: bool = False, expected: str | None = None) -> tuple[int, str]:
    """Stream chunks into `target` and return size and SHA-256; FileExistsError with `if_absent`, IntegrityError against `expected`.

    The bytes go to a hidden file in the same folder first, so that the last step is one atomic rename, or one
    hard link, which fails where the name is taken.
    """
    with named_full_disk():
        make_durable_folder(target.parent)
        partial = target.parent / f".{secrets.token_hex(8)}.partial"
        try:
            size_bytes, sha256 = _write(chunks, partial)
            if expected is not None:
                verify_digest(what=f"The object for {target.name}", kind="object", expected=expected, actual=sha256)
            if if_absent:
                os.link(partial, target)
            else:
                partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        _sync_folder(target.parent)
    return size_bytes, sha256


@contextmanager
def named_full_disk() -> Iterator[None]:
    """Tell a disk without room, or a limit on files, apart from defects: it is not the caller's fault, and it passes."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise UnavailableError(f"A local disk takes no more ({error.strerror}); make room on it.") from error


def make_durable_folder(folder: Path) -> None:
    """Create a folder and its missing parents, each recorded in the one above."""
    if folder.is_dir():
        return
    make_durable_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from error
    _sync_folder(folder.parent)


def read_chunks(source: BinaryIO) -> Iterator[bytes]:
    """Read an open file piece by piece."""
    while chunk := source.read(CHUNK_BYTES):
        yield chunk


def _write(chunks: Iterable[bytes], path: Path) -> tuple[int, str]:
    """Write and fsync one new file that only its owner reads."""
    digest = hashlib.sha256()
    size_bytes = 0
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as sink:  # noqa: PTH123 - pathlib sets no mode
        for chunk in chunks:
            sink.write(chunk)
            digest.update(chunk)
            size_bytes += len(chunk)
        sink.flush()
        os.fsync(sink.fileno())
    return size_bytes, digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
