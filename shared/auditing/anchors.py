"""Anchors: the chain's head, noted in the object store from time to time, so that a tail that was cut off is missed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
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

    def write(self, head: ChainedEvent) -> None:
        """Note that the log reached this event; it may be noted already."""
        data = json.dumps({"sequence": head.sequence, "hash": head.hash}).encode("ascii")
        try:
            self._store.put(key=f"{_PREFIX}{head.sequence:020}-{head.hash}.json", data=data, if_absent=True)
        except AlreadyExistsError:
            return

    def read(self) -> Iterator[Anchor]:
        """All anchors by sequence; several of one sequence where somebody wrote another."""
        after = ""
        while page := self._store.list(prefix=_PREFIX, start_after=after):
            for info in page:
                match = _NAME.fullmatch(info.key.removeprefix(_PREFIX))
                if match is not None:
                    yield Anchor(int(match["sequence"]), match["hash"])
            after = page[-1].key
