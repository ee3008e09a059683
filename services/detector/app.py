"""The detector put together: its state, its routes, its job runner."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import torch
from fastapi import FastAPI

from services.detector.api import calibration_routes, gallery_routes, judging_routes
from services.detector.calibration import Calibrations
from services.detector.gallery_library import GalleryLibrary
from services.detector.matching import Matcher
from services.detector.screening import Screener
from services.detector.state import DetectorState
from shared.catalog import open_catalog
from shared.diffusion.lane import ComputeLane
from shared.diffusion.library import ModelLibrary
from shared.diffusion.prompt_windows import PromptWindows
from shared.http.app import create_app as create_service
from shared.http.serve import own_settings, serve
from shared.jobs.opening import open_executor
from shared.jobs.records import JobStore
from shared.jobs.runner import JobRunner
from shared.settings import Settings, get_settings
from shared.telemetry import configure_logging

JOB_KINDS: Final = ("gallery", "calibration")
UPLOAD_PATHS: Final = ("/v1/matches",)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The detector's app."""
    return create_service(
        service="detector",
        settings=settings or get_settings(),
        routers=[gallery_routes(), calibration_routes(), judging_routes()],
        lifespan=open_state,
        state_type=DetectorState,
        ready=not_ready,
        upload_paths=UPLOAD_PATHS,
    )


@asynccontextmanager
async def open_state(settings: Settings) -> AsyncIterator[DetectorState]:
    """The state while the service runs; jobs go back into the queue when it ends."""
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    jobs = JobStore.open(settings)
    executor = open_executor(settings, worker_module="services.detector.worker")
    lane, reading = ComputeLane(), ComputeLane()
    try:
        with open_catalog(settings) as catalog:
            screener = Screener(
                library=ModelLibrary(catalog, memory_bytes=settings.model_memory_bytes),
                windows=PromptWindows(catalog),
                calibrations=Calibrations(catalog),
                lane=lane,
            )
            matcher = Matcher(galleries=GalleryLibrary(catalog), lane=lane, reading=reading)
            runner = JobRunner(store=jobs, executor=executor, kinds=JOB_KINDS)
            async with runner.serving(), screener.batcher.serving(), matcher.batcher.serving():
                yield DetectorState(
                    settings=settings,
                    catalog=catalog,
                    jobs=jobs,
                    runner=runner,
                    lane=lane,
                    screener=screener,
                    matcher=matcher,
                )
    finally:
        lane.close()
        reading.close()
        jobs.close()


def not_ready(state: DetectorState) -> list[str]:
    """Why the detector should get no work now."""
    state.jobs.ping()
    state.catalog.check()
    saturated = any(queue.is_saturated for queue in (state.lane, state.screener.batcher, state.matcher.reading, state.matcher.batcher))
    return state.runner.not_ready() + (["too many requests wait"] if saturated else [])


def main() -> None:
    """Serve at LETHE_DETECTOR_URL until told to stop."""
    configure_logging("detector")
    settings = own_settings()
    serve(create_app(settings), url=settings.detector_url, default_port=8003, settings=settings)
