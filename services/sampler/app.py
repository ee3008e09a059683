"""The sampler put together: its state and its routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import torch
from fastapi import FastAPI

from services.sampler.api import generation_routes
from services.sampler.state import SamplerState
from shared.catalog import open_catalog
from shared.diffusion.lane import ComputeLane
from shared.diffusion.library import ModelLibrary
from shared.diffusion.prompt_windows import PromptWindows
from shared.diffusion.studio import Studio
from shared.http.app import create_app as create_service
from shared.http.serve import own_settings, serve
from shared.settings import Settings, get_settings
from shared.telemetry import configure_logging


def create_app(settings: Settings | None = None) -> FastAPI:
    """The sampler's app."""
    return create_service(
        service="sampler",
        settings=settings or get_settings(),
        routers=[generation_routes()],
        lifespan=open_state,
        state_type=SamplerState,
        ready=not_ready,
    )


@asynccontextmanager
async def open_state(settings: Settings) -> AsyncIterator[SamplerState]:
    """The state while the service runs; when it ends, the batch under way is the last."""
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    lane = ComputeLane()
    try:
        with open_catalog(settings) as catalog:
            library = ModelLibrary(catalog, memory_bytes=settings.model_memory_bytes)
            async with Studio(library, lane).serving() as studio:
                yield SamplerState(settings=settings, catalog=catalog, windows=PromptWindows(catalog), studio=studio)
    finally:
        lane.close()


def not_ready(state: SamplerState) -> list[str]:
    """Why the sampler should get no work now."""
    state.catalog.check()
    return ["the queue is full"] if state.studio.is_saturated else []


def main() -> None:
    """Serve at LETHE_SAMPLER_URL until told to stop."""
    configure_logging("sampler")
    settings = own_settings()
    serve(create_app(settings), url=settings.sampler_url, default_port=8002, settings=settings)
