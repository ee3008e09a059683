"""What the trainer's routes work with."""

from __future__ import annotations

from dataclasses import dataclass

from services.trainer.records import Records
from services.trainer.run_files import RunFiles
from services.trainer.search.search_files import SearchFiles
from shared.catalog import Catalog
from shared.jobs.records import JobStore
from shared.jobs.runner import JobRunner
from shared.settings import Settings


@dataclass(frozen=True, kw_only=True)
class TrainerState:
    """Made by the lifespan, closed with it."""

    settings: Settings
    catalog: Catalog
    jobs: JobStore
    runner: JobRunner
    records: Records
    run_files: RunFiles
    search_files: SearchFiles
