"""Secret keys that an installation makes for itself once and keeps in a folder that its replicas share."""

from __future__ import annotations

import secrets
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

from shared.errors import UnavailableError
from shared.storage.durable import write_durable

_KEY_BYTES: Final = 32


@lru_cache
def kept_key(path: Path) -> bytes:
    """The key in a file, made once: of several services that start together, one wins and all read its key.

    It is on the disk before anything is signed with it: what a database has kept since could not be believed without.
    """
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_bytes()
    except OSError as error:
        raise UnavailableError(f"The key {path} is not there to be read, and cannot be made ({error.strerror}).") from error
    if len(key) != _KEY_BYTES:
        raise ValueError(f"{path} must hold {_KEY_BYTES} bytes; bring it back from the backup.")
    return key


def _make_key(path: Path) -> None:
    """A new key, unless another process was faster."""
    with suppress(FileExistsError):
        write_durable([secrets.token_bytes(_KEY_BYTES)], target=path, if_absent=True)
