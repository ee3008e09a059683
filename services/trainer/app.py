"""The trainer put together: its state, its routes, its job runner."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Final

from fastapi import FastAPI
from prometheus_client import Gauge

from services.trainer.api import dataset_routes, model_routes, training_routes
from services.trainer.records import Records
from services.trainer.run_files import RunFiles
from services.trainer.search.routes import search_routes
from services.trainer.search.search_files import SearchFiles
from services.trainer.state import TrainerState
from shared.catalog import open_catalog
from shared.http.app import create_app as create_service
from shared.http.serve import own_settings, serve
from shared.jobs.opening import open_executor
from shared.jobs.records import JobStore
from shared.jobs.runner import JobRunner
from shared.settings import Settings, get_settings
from shared.storage import open_store
from shared.telemetry import configure_logging

JOB_KINDS: Final = ("dataset", "training", "search", "import")

CHECKPOINT_INTERVAL = Gauge("lethe_checkpoint_interval_seconds", "Seconds after which a running training is to be kept again.")


def create_app(settings: Settings | None = None) -> FastAPI:
    """The trainer's app."""
    return create_service(
        service="trainer",
        settings=settings or get_settings(),
        routers=[dataset_routes(), training_routes(), search_routes(), model_routes()],
        lifespan=open_state,
        state_type=TrainerState,
        ready=not_ready,
    )


@asynccontextmanager
async def open_state(settings: Settings) -> AsyncIterator[TrainerState]:
    """The state while the service runs; jobs go back into the queue when it ends."""
    CHECKPOINT_INTERVAL.set(settings.checkpoint_seconds)
    jobs = JobStore.open(settings)
    executor = open_executor(settings, worker_module="services.trainer.worker")
    try:
        with open_catalog(settings) as catalog, closing(open_store(settings)) as store:
            async with JobRunner(store=jobs, executor=executor, kinds=JOB_KINDS).serving() as runner:
                yield TrainerState(
                    settings=settings,
                    catalog=catalog,
                    jobs=jobs,
                    runner=runner,
                    records=Records(catalog),
                    run_files=RunFiles(store),
                    search_files=SearchFiles(store),
                )
    finally:
        jobs.close()


def not_ready(state: TrainerState) -> list[str]:
    """Why the trainer should get no work now."""
    state.jobs.ping()
    state.catalog.check(writes=True)
    return state.runner.not_ready()


def main() -> None:
    """Serve at LETHE_TRAINER_URL until told to stop."""
    configure_logging("trainer")
    settings = own_settings()
    serve(create_app(settings), url=settings.trainer_url, default_port=8001, settings=settings)
