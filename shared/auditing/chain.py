"""The chain: each event's hash covers its content, its number and its predecessor's hash, under a key that the database does not hold."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from shared.auditing.events import AuditEvent, ChainedEvent

# What the first event has for a predecessor's hash.
GENESIS: Final = "0" * 64


class Chain:
    """Hashes events under one key; who lacks the key makes no hash that fits."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def link(self, event: AuditEvent, *, sequence: int, previous: str) -> ChainedEvent:
        """The event at its place."""
        content = event.content()
        return ChainedEvent(sequence=sequence, content=content, previous=previous, hash=self._hash(sequence, previous, content))

    def is_genuine(self, chained: ChainedEvent) -> bool:
        """Whether content, number and predecessor are those that the event was written with."""
        expected = self._hash(chained.sequence, chained.previous, chained.content)
        return hmac.compare_digest(expected.encode(), chained.hash.encode(errors="replace"))

    def _hash(self, sequence: int, previous: str, content: str) -> str:
        """The keyed hash of all three, none of which can run into the next: a number and a hash hold no line break."""
        return hmac.digest(self._key, f"{sequence}\n{previous}\n{content}".encode(errors="replace"), hashlib.sha256).hex()
