"""The mitigator put together: its state and its routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import torch
from fastapi import FastAPI

from services.mitigator.api import mitigation_routes
from services.mitigator.judge import DetectorJudge
from services.mitigator.state import MitigatorState
from services.mitigator.workshop import SharedWorkshop
from shared.catalog import open_catalog
from shared.client import DetectorClient
from shared.diffusion.lane import ComputeLane
from shared.diffusion.library import ModelLibrary
from shared.diffusion.prompt_windows import PromptWindows
from shared.diffusion.studio import Studio
from shared.http.app import create_app as create_service
from shared.http.serve import own_settings, serve
from shared.settings import Settings, get_settings
from shared.telemetry import configure_logging

JUDGEMENT_DEADLINE: Final = timedelta(seconds=60)  # of one question to the detector, which a busy machine answers in seconds


def create_app(settings: Settings | None = None) -> FastAPI:
    """The mitigator's app."""
    return create_service(
        service="mitigator",
        settings=settings or get_settings(),
        routers=[mitigation_routes()],
        lifespan=open_state,
        state_type=MitigatorState,
        ready=not_ready,
    )


@asynccontextmanager
async def open_state(settings: Settings) -> AsyncIterator[MitigatorState]:
    """The state while the service runs."""
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    detector = DetectorClient(settings.detector_url, deadline=JUDGEMENT_DEADLINE, key=settings.service_key)
    lane = ComputeLane()
    try:
        with open_catalog(settings) as catalog:
            studio = Studio(ModelLibrary(catalog, memory_bytes=settings.model_memory_bytes), lane)
            async with SharedWorkshop(studio, DetectorJudge(detector)).open() as workshop:
                yield MitigatorState(catalog=catalog, windows=PromptWindows(catalog), workshop=workshop)
    finally:
        lane.close()
        detector.close()


def not_ready(state: MitigatorState) -> list[str]:
    """Why the mitigator should get no work now."""
    state.catalog.check()
    return ["the queue is full"] if state.turns.is_saturated else []


def main() -> None:
    """Serve at LETHE_MITIGATOR_URL until told to stop."""
    configure_logging("mitigator")
    settings = own_settings()
    serve(create_app(settings), url=settings.mitigator_url, default_port=8004, settings=settings)
