"""The sampler put together: its state and its routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import torch
from fastapi import FastAPI

from services.sampler.api import generation_routes
from services.sampler.state import SamplerState
from shared.catalog import open_catalog
from shared.diffusion.lane import ComputeLane
from shared.diffusion.library import ModelLibrary
from shared.http.app import create_app as create_service
from shared.http.serve import serve
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
            yield SamplerState(settings=settings, catalog=catalog, library=ModelLibrary(catalog), lane=lane)
    finally:
        lane.close()


def not_ready(state: SamplerState) -> list[str]:
    """Why the sampler should get no work now."""
    state.catalog.ping()
    return ["the queue is full"] if state.lane.is_saturated else []


def main() -> None:
    """Serve at LETHE_SAMPLER_URL until told to stop."""
    configure_logging("sampler")
    settings = get_settings()
    address = urlsplit(settings.sampler_url)
    serve(create_app(settings), host=address.hostname or "127.0.0.1", port=address.port or 8002)
