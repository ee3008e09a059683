"""Anchors: the chain's head, noted in the object store from time to time, so that a tail that was cut off is missed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from shared.auditing.events import ChainedEvent
from shared.errors import AlreadyExistsError
from shared.settings import Settings
from shared.storage import ObjectStore, open_store

_PREFIX: Final = "audit-log/anchors/"
_NAME: Final = re.compile(r"(?P<sequence>\d{20})-(?P<hash>[0-9a-f]{64})\.json")


@dataclass(frozen=True, slots=True)
class Anchor:
    """An event that the log once ended with."""

    sequence: int
    hash: str


class Anchors:
    """The anchors in a store; each is written once, and all it says is in its name, so that a listing tells them all."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @classmethod
    def open(cls, settings: Settings) -> Anchors:
        """Those in the bucket of the audit log, or where all objects lie."""
        bucket = settings.audit_bucket or settings.s3_bucket
        return cls(open_store(settings.model_copy(update={"s3_bucket": bucket})))

    def close(self) -> None:
        """Let go of connections."""
        self._store.close()

    def write(self, head: ChainedEvent) -> Anchor:
        """Note that the log reached this event; it may be noted already."""
        data = json.dumps({"sequence": head.sequence, "hash": head.hash}).encode("ascii")
        with suppress(AlreadyExistsError):
            self._store.put(key=f"{_PREFIX}{head.sequence:020}-{head.hash}.json", data=data, if_absent=True)
        return Anchor(head.sequence, head.hash)

    def read(self) -> Iterator[Anchor]:
        """All anchors by sequence, those too that somebody deleted and the store keeps; several of one sequence where there are others."""
        after = ""
        while page := self._store.list_kept(prefix=_PREFIX, start_after=after):
            yield from _anchors_in(page)
            after = page[-1]

    def newest(self, *, after: int, until: ChainedEvent) -> Anchor | None:
        """The last of the anchors after a number, up to that of an event; None without one."""
        newest = None
        key = f"{_PREFIX}{after:020}~"  # behind every name with that number
        while page := self._store.list(prefix=_PREFIX, start_after=key):
            for anchor in _anchors_in(info.key for info in page):
                if anchor.sequence > until.sequence:
                    return newest
                if anchor.sequence < until.sequence or anchor.hash == until.hash:
                    newest = anchor
            key = page[-1].key
        return newest


def _anchors_in(keys: Iterable[str]) -> Iterator[Anchor]:
    """The anchors among objects."""
    for key in keys:
        match = _NAME.fullmatch(key.removeprefix(_PREFIX))
        if match is not None:
            yield Anchor(int(match["sequence"]), match["hash"])
