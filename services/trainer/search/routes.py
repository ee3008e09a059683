"""The routes of searches: begin one, look at what it tried and found, and train with it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.responses import Response

from services.trainer.html_pages import HEADERS
from services.trainer.search.admission import admit_search, of_training, require_fitting_films
from services.trainer.search.applied import applied_training, point_of, require_same_modules
from services.trainer.search.pictures import Drawing, picture_of
from services.trainer.search.schemas import ApplyRequest, PictureName, SearchRequest, Trials
from services.trainer.search.search_page import render_search
from services.trainer.search.search_spec import SearchSpec
from services.trainer.state import TrainerState
from services.trainer.training_inputs import modules_of, require_inputs
from services.trainer.training_spec import TrainingSpec
from shared.catalog import new_id
from shared.errors import ConflictError, NotFoundError
from shared.http.access import requires
from shared.http.idempotency import IDEMPOTENT
from shared.http.operations import JobId, Operation, accept_job, job_of_kind, operation_routes
from shared.http.state import state_of
from shared.jobs.records import Job

State = Annotated[TrainerState, Depends(state_of(TrainerState))]


def search_routes() -> APIRouter:
    """Searches."""
    router = APIRouter(tags=["searches"])

    @router.post(
        "/v1/searches",
        status_code=202,
        summary="Search which parameters to tune",
        dependencies=[requires("train", action="train")],
        response_model=Operation,
        openapi_extra=IDEMPOTENT,
    )
    async def start_search(body: SearchRequest, request: Request, state: State) -> JSONResponse:
        """Start a search; its result is the front that it found."""
        await asyncio.to_thread(admit_search, body, catalog=state.catalog, jobs=state.jobs, settings=state.settings)
        spec = body.model_dump(mode="json")
        return await accept_job(request, state, noun="searches", kind="search", job_id=new_id("job"), spec=spec, body=body)

    operation_routes(router, noun="searches", kind="search", state_type=TrainerState, extend=_search_fields)

    @router.get("/v1/searches/{id}/trials", summary="List what a search tried", dependencies=[requires("read")])
    def list_trials(id: JobId, state: State) -> Trials:  # noqa: A002
        """Every trial with its choice, its state and what was measured, at rungs too."""
        job = _search(state, id)
        return Trials(trials=state.search_files.trials(id, is_settled=job.is_settled))

    @router.get("/v1/searches/{id}/report", summary="Look at a search", dependencies=[requires("read")], response_class=HTMLResponse)
    def get_report(id: JobId, state: State) -> HTMLResponse:  # noqa: A002
        """Front, recommended point, masks, hypervolume and importance on one self-contained page; while it runs, those so far."""
        job = _search(state, id)
        files, is_settled = state.search_files, job.is_settled
        page = render_search(job, files.summary(id, is_settled=is_settled), files.trials(id, is_settled=is_settled))
        return HTMLResponse(page, headers=HEADERS)

    @router.get(
        "/v1/searches/{id}/pictures/{picture}.png",
        summary="Look at a picture of a search",
        dependencies=[requires("read")],
        response_class=Response,
        responses={200: {"description": "The picture", "content": {"image/png": {}}}},
    )
    def get_picture(id: JobId, picture: PictureName, state: State) -> Response:  # noqa: A002
        """The front, the masks that were tried, or the front's hypervolume over training steps, as PNG."""
        files, is_settled = state.search_files, _search(state, id).is_settled
        summary = files.summary(id, is_settled=is_settled)
        if summary is None:
            raise NotFoundError(f"{id} has no trial that is over; there is nothing to be drawn yet.")
        png = picture_of(picture, Drawing(summary, files.trials(id, is_settled=is_settled)))
        return Response(png, media_type="image/png", headers={"Cache-Control": "private, no-store"})

    @router.post(
        "/v1/searches/{id}/apply",
        status_code=202,
        summary="Train with what was found",
        dependencies=[requires("train", action="train")],
        response_model=Operation,
        openapi_extra=IDEMPOTENT,
    )
    async def apply_search(id: JobId, body: ApplyRequest, request: Request, state: State) -> JSONResponse:  # noqa: A002
        """Start a training job with a point's parameters, rate, filter and captions, on this data set and base or on others."""
        training = await asyncio.to_thread(_applied, id, body, state)
        spec = training.model_dump(mode="json")
        return await accept_job(
            request,
            state,
            noun="training-jobs",
            kind="training",
            job_id=new_id("job"),
            spec=spec,
            body=body,
            route=f"searches/{id}/apply",
        )

    return router


def _search_fields(state: TrainerState, job: Job) -> dict[str, Any]:
    """Its name and spec, and until it has a result what was found so far."""
    summary = state.search_files.summary(job.id, is_settled=job.is_settled) if job.result is None else None
    return {"name": job.spec["training"]["name"], "dataset": job.spec["training"]["dataset"], "spec": job.spec, "so_far": summary}


def _search(state: TrainerState, job_id: str) -> Job:
    """A search's job; NotFoundError where there is none."""
    return job_of_kind(state, job_id, noun="searches", kind="search")


def _applied(search_id: str, body: ApplyRequest, state: TrainerState) -> TrainingSpec:
    """The training that applying a point means, fit to be queued."""
    job = _search(state, search_id)
    search, files = SearchSpec.model_validate(job.spec), state.search_files
    summary = files.summary(search_id, is_settled=job.is_settled)
    if summary is None:
        raise ConflictError(f"No trial of {search_id} is over yet; there is nothing to apply.")
    trial = point_of(summary, files.trials(search_id, is_settled=job.is_settled), body.trial, search_id)
    modules = summary["modules"]
    with of_training():
        training = applied_training(search, modules, trial, body.wishes, search_id)
        require_inputs(training, catalog=state.catalog, jobs=state.jobs)
        base = state.catalog.get("model", str(training.base))
        if base.id != search.training.base:
            require_same_modules(modules, modules_of(base, state.catalog), base.id)
        require_fitting_films(base, state.catalog.get("dataset", training.dataset), state.catalog)
    return training
