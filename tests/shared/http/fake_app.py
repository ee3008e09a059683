"""A small service with everything that create_app gives, in process or served by `python -m tests.shared.http.fake_app PORT`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from shared import errors
from shared.http.access import requires
from shared.http.app import create_app
from shared.http.bodies import Seed, StrictBody
from shared.http.operations import accept_job, operation_routes
from shared.http.paging import Page, PageQuery
from shared.http.serve import serve
from shared.http.state import state_of
from shared.jobs.process_executor import ProcessExecutor
from shared.jobs.records import Job, JobStore
from shared.jobs.runner import JobRunner
from shared.settings import Settings, get_settings
from shared.telemetry import configure_logging, get_logger

ROOT = Path(__file__).parents[3]


@dataclass(slots=True, kw_only=True)
class FakeState:
    """What the fake service's routes share."""

    jobs: JobStore
    runner: JobRunner
    reasons: list[str] = field(default_factory=list)
    numbers: int = 0


class Choice(StrictBody):
    """A tagged part of a body."""

    format: Literal["plain"]


class OtherChoice(StrictBody):
    """Another tagged part of a body."""

    format: Literal["fancy"]


class ThingBody(StrictBody):
    """A body with a bit of everything."""

    prompt: str = Field(max_length=4000)
    steps: int = Field(default=2000, ge=1, le=10_000)
    rate: float = Field(default=1.0, ge=0, le=10)
    seed: Seed = 0
    quick: bool = False
    source: Annotated[Choice | OtherChoice, Field(discriminator="format")] | None = None


class RaiseBody(StrictBody):
    """Which error to raise, with which text."""

    error: str
    text: str


class NapBody(StrictBody):
    """How long a request takes, and which one it is."""

    number: int
    milliseconds: int


State = Annotated[FakeState, Depends(state_of(FakeState))]
router = APIRouter()
operation_routes(
    router,
    noun="things",
    kind="steps",
    state_type=FakeState,
    extend=lambda _state, job: extra_of(job),
    missing=lambda _state, name: kept(name),
)


def extra_of(job: Job) -> dict[str, Any]:
    """Fields of a manifest, and one that tries to overwrite the envelope."""
    return {"films": 12, "state": "made up"} if job.state == "succeeded" else {}


def kept(name: str) -> dict[str, Any]:
    """The one thing that has no job record."""
    if name != "kept_1":
        raise errors.NotFoundError(f"There is no {name!r} among the things.")
    return {"id": name, "kept": True}


@router.post("/v1/things", status_code=202, dependencies=[requires("train", action="train")])
async def create_thing(body: ThingBody, request: Request, state: State) -> JSONResponse:
    """Queue a job; the ids count upwards so that tests know them."""
    state.numbers += 1
    spec = {"steps": body.steps, "prompt": body.prompt}
    return await accept_job(request, state, noun="things", kind="steps", job_id=f"thing_{state.numbers}", spec=spec, body=body)


@router.post("/v1/raise", dependencies=[requires(None)])
def raise_error(body: RaiseBody) -> dict[str, str]:
    """Raise an error of the tree, or any other."""
    if body.error == "MitigationInsufficientError":
        raise errors.MitigationInsufficientError("No strategy suffices.", evidence=[{"strategy": "auto", "score_after": 2.5}])
    if body.error == "InvalidRequestError":
        raise errors.InvalidRequestError("The prompt has 90 tokens; the encoder takes 77.", field="prompts.0")
    found = getattr(errors, body.error, ValueError)
    raise found(body.text)


@router.post("/v1/naps", dependencies=[requires(None)])
async def nap(body: NapBody) -> dict[str, int]:
    """Take a while, and say so on the way."""
    get_logger(__name__).info("nap begun", number=body.number)
    await asyncio.sleep(body.milliseconds / 1000)
    return {"number": body.number}


@router.post("/v1/uploads", dependencies=[requires(None)])
def upload(body: dict[str, str]) -> dict[str, int]:
    """Take a large body."""
    return {"length": len(body["data"])}


@router.get("/v1/numbers", dependencies=[requires(None)])
def list_numbers(_query: Annotated[PageQuery, Query()]) -> Page[int]:
    """A list of one page."""
    return Page(items=[1, 2])


def make_app(settings: Settings, *, run_jobs: bool) -> FastAPI:
    """The fake service; without `run_jobs` its jobs stay queued until a test settles them."""

    @asynccontextmanager
    async def lifespan(settings: Settings) -> AsyncIterator[FakeState]:
        """Open the records, and run jobs if wanted."""
        environment = {"LETHE_HOME": str(settings.home), "PYTHONPATH": str(ROOT)}
        executor = ProcessExecutor(worker_module="tests.shared.jobs.fake_worker", slots=1, environment=environment)
        jobs = JobStore.open(settings)
        runner = JobRunner(store=jobs, executor=executor, kinds=["steps"])
        state = FakeState(jobs=jobs, runner=runner)
        try:
            if run_jobs:
                async with runner.serving():
                    yield state
            else:
                yield state
        finally:
            jobs.close()

    return create_app(
        service="fake",
        settings=settings,
        routers=[router],
        lifespan=lifespan,
        state_type=FakeState,
        ready=ready,
        upload_paths=["/v1/uploads"],
    )


def ready(state: FakeState) -> list[str]:
    """What the test says, or what the runner does."""
    return [*state.reasons, *state.runner.not_ready()]


if __name__ == "__main__":
    configure_logging("fake")
    serve(make_app(get_settings(), run_jobs=True), url="", default_port=int(sys.argv[1]), settings=get_settings())
