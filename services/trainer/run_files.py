"""What a training job leaves in the store for people to look at: its loss curves and its validation strips."""

from __future__ import annotations

import json
from typing import Any, Final

from shared.errors import NotFoundError
from shared.storage import ObjectStore

# As the worker writes them (shared.diffusion.checkpoint_store), whose modules need tensor libraries.
FOLDER: Final = "checkpoints"
_SUFFIX: Final = ".png"


class RunFiles:
    """Reads the files of training jobs; job ids are those of job records."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def losses(self, job_id: str) -> list[dict[str, Any]]:
        """The curve of every phase so far; none before the first is written."""
        try:
            curves: list[dict[str, Any]] = json.loads(self._store.get(key=f"{FOLDER}/{job_id}/losses.json"))["curves"]
        except NotFoundError:
            return []
        return curves

    def strip_steps(self, job_id: str) -> list[int]:
        """The steps after which a strip was drawn, in order."""
        prefix = f"{FOLDER}/{job_id}/validation/"
        steps: list[int] = []
        last = ""
        while found := self._store.list(prefix=prefix, start_after=last):
            last = found[-1].key
            steps += [int(info.key.removeprefix(prefix).removesuffix(_SUFFIX)) for info in found]
        return sorted(steps)

    def strip(self, job_id: str, step: int) -> bytes:
        """One strip as PNG; NotFoundError where none was drawn."""
        try:
            return self._store.get(key=f"{FOLDER}/{job_id}/validation/{step}{_SUFFIX}")
        except NotFoundError as error:
            raise NotFoundError(f"The training job {job_id} has no validation strip of step {step}.") from error
