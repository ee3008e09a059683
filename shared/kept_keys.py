"""Secret keys that an installation makes for itself once and keeps in a folder that its replicas share."""

from __future__ import annotations

import os
import secrets
from functools import lru_cache
from pathlib import Path
from typing import Final

_KEY_BYTES: Final = 32


@lru_cache
def kept_key(path: Path) -> bytes:
    """The key in a file, made once: of several services that start together, one wins and all read its key."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        try:
            path.hardlink_to(fresh)
        except FileExistsError:
            return _read_key(path)
        finally:
            fresh.unlink()
    return _read_key(path)


def _read_key(path: Path) -> bytes:
    """The key, which must be whole."""
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise ValueError(f"{path} must hold {_KEY_BYTES} bytes; delete it to have a new one made.")
    return key
