"""Opaque ids, given at creation, that sort by the time they were made (after the ULID specification, in lower case)."""

from __future__ import annotations

import re
import secrets
import threading
import time
from typing import Literal

Kind = Literal["dataset", "model", "gallery", "calibration", "generation"]
Prefixed = Literal[Kind, "job"]

PREFIXES: dict[Prefixed, str] = {
    "dataset": "ds",
    "model": "mdl",
    "gallery": "gal",
    "calibration": "cal",
    "generation": "gen",
    "job": "job",
}
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_CHARACTERS = 26
_RANDOM_BITS = 80
_BODY = re.compile(r"[0-9a-z]{1,40}")

_lock = threading.Lock()
_latest = 0


def new_id(kind: Prefixed) -> str:
    """A new id of this kind; in one process each sorts behind the one before, however fast they follow each other."""
    return _new_id(PREFIXES[kind])


def new_id_like(known: str) -> str:
    """A new id of the kind that a known one has."""
    return _new_id(known.partition("_")[0])


def _new_id(prefix: str) -> str:
    """A prefix, the time, and chance."""
    global _latest  # noqa: PLW0603 - the order of ids is a property of the process
    with _lock:
        drawn = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
        _latest = max(drawn, _latest + 1)
        number = _latest
    return f"{prefix}_{_encode(number)}"


def is_id(kind: Prefixed, text: str) -> bool:
    """Whether a text looks like an id of this kind, and is therefore safe in a key."""
    prefix, _, body = text.partition("_")
    return prefix == PREFIXES[kind] and _BODY.fullmatch(body) is not None


def _encode(number: int) -> str:
    """Crockford's base 32, most significant character first."""
    return "".join(_ALPHABET[(number >> 5 * place) & 31] for place in reversed(range(_CHARACTERS)))
