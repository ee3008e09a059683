"""Idempotency keys: the same request sent twice makes one job."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from shared.errors import ConflictError

# Clients are promised a day; two leave room for a retry that was queued overnight.
KEPT_FOR = timedelta(hours=48)


class IdempotencyKeyReusedError(ConflictError):
    """The Idempotency-Key was used before with another body."""


class IdempotencyInFlightError(ConflictError):
    """The first request with the Idempotency-Key is not answered yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKey:
    """A caller's key, whose it is, the route it holds for, and the digest of the body it came with."""

    holder: str
    scope: str
    key: str
    fingerprint: str


def canonical_digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its fields."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode("utf-8", errors="surrogatepass")).hexdigest()
