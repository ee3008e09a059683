"""What the detector's routes work with."""

from __future__ import annotations

from dataclasses import dataclass

from services.detector.matching import Matcher
from services.detector.screening import Screener
from shared.catalog import Catalog
from shared.diffusion.lane import ComputeLane
from shared.jobs.records import JobStore
from shared.jobs.runner import JobRunner
from shared.settings import Settings


@dataclass(frozen=True, kw_only=True)
class DetectorState:
    """Made by the lifespan, closed with it."""

    settings: Settings
    catalog: Catalog
    jobs: JobStore
    runner: JobRunner
    lane: ComputeLane
    screener: Screener
    matcher: Matcher
