"""API keys as text: `lethe_<public prefix>_<256 random bits>`; what is kept of one is its prefix and a keyed hash."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import Final

_PREFIX_BYTES: Final = 6
_SECRET_BYTES: Final = 32  # 256 bits
_SHAPE: Final = re.compile(r"lethe_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")


def fresh_key() -> str:
    """A new key, to be shown once."""
    return f"lethe_{secrets.token_hex(_PREFIX_BYTES)}_{secrets.token_urlsafe(_SECRET_BYTES)}"


def prefix_of(key: str) -> str | None:
    """The public part by which a key is found; None for what has not the shape of a key."""
    shape = _SHAPE.fullmatch(key)
    return shape.group(1) if shape else None


def hash_of(key: str, *, pepper: bytes, grants: str = "") -> bytes:
    """What is kept of a key, with what it grants.

    Without the installation's own `pepper`, who reads the table can neither use nor test a key, and who writes to it can make none
    grant more. A slow hash would protect nothing else: nobody guesses 256 random bits.
    """
    return hmac.digest(pepper, f"{key} {grants}".encode("ascii"), hashlib.sha256)
