"""What trials leave behind: checkpoints of those that are over; records, events and curves of those whose whole search is over."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from services.trainer.search.trial_spec import KIND, search_of, trial_jobs_of
from shared.diffusion.checkpoint_store import FOLDER, CheckpointStore
from shared.errors import NotFoundError
from shared.jobs.parts import settle_parts
from shared.jobs.records import JobStore
from shared.storage import ObjectStore

SEARCH_KIND: Final = "search"


class Leftovers:
    """Of all searches that these records know."""

    def __init__(self, records: JobStore, store: ObjectStore, scratch: Path) -> None:
        self._records = records
        self._store = store
        self._scratch = scratch

    def clear_away(self, ended: Collection[str]) -> None:
        """Settle the trials of searches that ended, and remove what no trial goes on from and nobody looks at.

        A search's history is rebuilt from its trials' records until it is settled; people look at its own files.
        """
        settle_parts(self._records, kind=KIND, whole="search", ended=ended)
        over = {job.id for job in self._records.list(kinds=[SEARCH_KIND]) if job.is_settled}
        for job_id in self._store.list_folders(prefix=f"{FOLDER}/"):
            search = search_of(job_id)
            if search in over:
                self.remove_checkpoints(job_id)
                self._store.delete(key=f"{FOLDER}/{job_id}/losses.json")
            elif search is not None and self._is_settled_trial(job_id):
                self.remove_checkpoints(job_id)
        self._records.forget_settled(kind=KIND, prefixes=[trial_jobs_of(search) for search in sorted(over)])

    def remove_checkpoints(self, trial_job: str) -> None:
        """Of one trial that is over."""
        CheckpointStore(self._store, trial_job, scratch=self._scratch, keep=1).remove()

    def _is_settled_trial(self, job_id: str) -> bool:
        """Another kind of job may be called so by chance."""
        try:
            job = self._records.get(job_id)
        except NotFoundError:
            return False
        return job.kind == KIND and job.is_settled
