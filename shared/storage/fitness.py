"""Whether a store does what Lethe needs: probed before a service is ready, and asked something small from then on."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Final

from shared.errors import UnavailableError
from shared.storage.object_store import ObjectStore

# Without these nothing that was committed could be trusted; the other capabilities a store may lack, and the log says which.
REQUIRED: Final = ("read_back", "digest")
# Looked for to see whether the store answers. Nothing is there, but everybody may read there: of a key that one may not read, MinIO says
# that it is forbidden, whether it exists or not.
PING: Final = "probe/ping"
# How late a service that writes notices that the store takes no more (full, credentials without the right).
WRITES_TRIED_EVERY: Final = timedelta(seconds=30)


class StoreFitness:
    """Answers readiness checks, one at a time."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._probed: float | None = None

    def check(self, *, writes: bool) -> None:
        """UnavailableError while the store is away, or lacks something; with `writes` it must also still take objects."""
        if self._probed is None or (writes and time.monotonic() - self._probed >= WRITES_TRIED_EVERY.total_seconds()):
            self._probe()
        else:
            self._store.exists(key=PING)

    def _probe(self) -> None:
        """Try everything; what failed is tried again at the next check."""
        self._probed = None
        found = self._store.probe()
        missing = [capability for capability in REQUIRED if not found[capability]]
        if missing:
            raise UnavailableError(f"The object store lacks what Lethe cannot do without ({', '.join(missing)}); name another one.")
        self._probed = time.monotonic()
