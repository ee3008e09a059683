"""What a search keeps in the store for people to look at: its summary so far, and every trial."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.trainer.search.trial import Trial
from shared.errors import NotFoundError
from shared.storage import ObjectStore

FOLDER: Final = "searches"


class SearchFiles:
    """The files of searches; the ids are those of job records.

    A search whose process died may be settled before another one writes what became of its trials: none of them runs any more.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def summary(self, search_id: str, *, is_settled: bool) -> dict[str, Any] | None:
        """What was found so far; None before the first trial is over."""
        summary: dict[str, Any] | None = self._read(f"{FOLDER}/{search_id}/summary.json")
        if summary is None or not is_settled:
            return summary
        counts = summary["trials"]
        return summary | {"trials": counts | {"running": 0, "cancelled": counts["cancelled"] + counts["running"]}}

    def trials(self, search_id: str, *, is_settled: bool) -> list[Trial]:
        """All trials so far, in the order of their numbers."""
        trials = [Trial.model_validate(trial) for trial in self._read(f"{FOLDER}/{search_id}/trials.json") or []]
        if not is_settled:
            return trials
        ended = {"state": "cancelled", "reason": "It ended with its search."}
        return [trial.model_copy(update=ended) if trial.state == "running" else trial for trial in trials]

    def keep(self, search_id: str, trials: Sequence[Trial], summary: Mapping[str, Any]) -> None:
        """Write both anew."""
        for name, kept in (("trials", [trial.model_dump(mode="json") for trial in trials]), ("summary", summary)):
            self._store.put(key=f"{FOLDER}/{search_id}/{name}.json", data=json.dumps(kept, allow_nan=False).encode())

    def _read(self, key: str) -> Any:
        try:
            return json.loads(self._store.get(key=key))
        except NotFoundError:
            return None
