"""The trainer's routes: data sets in, models out."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.responses import Response

from services.trainer.dataset_page import render_page
from services.trainer.datasets import committed_dataset, dataset_without_job, describe_dataset
from services.trainer.html_pages import HEADERS
from services.trainer.schemas import (
    Alias,
    DatasetRequest,
    ImportRequest,
    LossCurve,
    LossCurves,
    Record,
    RecordsQuery,
    TrainingRequest,
    ValidationStrips,
)
from services.trainer.source_opening import folder_of, source_folder
from services.trainer.state import TrainerState
from services.trainer.training_inputs import require_inputs
from shared.catalog import ModelManifest, new_id
from shared.http.access import requires
from shared.http.idempotency import IDEMPOTENT
from shared.http.immutable import immutable_response
from shared.http.operations import JobId, Operation, accept_job, job_of_kind, operation_routes
from shared.http.paging import Page, PageQuery, PageTokens
from shared.http.recording import record_of
from shared.http.state import state_of
from shared.jobs.records import Job

State = Annotated[TrainerState, Depends(state_of(TrainerState))]
ModelId = Annotated[str, Path(min_length=1, max_length=64, description="A model's id.")]
AliasName = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Lower-case letters, digits and '-'.")]
StepNumber = Annotated[int, Path(ge=1, le=1_000_000, description="A step of the denoiser.")]
RecordNumber = Annotated[int, Path(ge=0, le=2**31 - 1, description="A film's number in the data set.")]


def dataset_routes() -> APIRouter:
    """Registering data sets and looking into them."""
    router = APIRouter(tags=["datasets"])

    @router.post(
        "/v1/datasets",
        status_code=202,
        summary="Register a data set",
        dependencies=[requires("train", action="train")],
        response_model=Operation,
        openapi_extra=IDEMPOTENT,
    )
    async def register_dataset(body: DatasetRequest, request: Request, state: State) -> JSONResponse:
        """Start reading a source; the id is the data set's own."""
        await asyncio.to_thread(source_folder, body, state.settings)
        if body.prompt.encoder is not None:
            await asyncio.to_thread(state.catalog.get, "model", body.prompt.encoder)
        spec = body.model_dump(mode="json")
        return await accept_job(request, state, noun="datasets", kind="dataset", job_id=new_id("dataset"), spec=spec, body=body)

    operation_routes(router, noun="datasets", kind="dataset", state_type=TrainerState, extend=_dataset_fields, missing=_dataset_without_job)

    @router.get(
        "/v1/datasets/{id}/page",
        summary="Look at a data set",
        dependencies=[requires("export", action="download")],
        response_class=HTMLResponse,
    )
    def get_page(id: JobId, state: State) -> HTMLResponse:  # noqa: A002
        """Counts, histograms, anonymity of prompts, gates, sample films and warnings on one self-contained page."""
        dataset = committed_dataset(state.catalog, state.jobs, id)
        return HTMLResponse(render_page(dataset, state.catalog), headers=HEADERS)

    @router.get("/v1/datasets/{id}/records", summary="Read the records in order", dependencies=[requires("export", action="download")])
    def list_records(id: JobId, query: Annotated[RecordsQuery, Query()], request: Request, state: State) -> Page[Record]:  # noqa: A002
        """One page of films without pictures."""
        dataset = committed_dataset(state.catalog, state.jobs, id)
        tokens = PageTokens.open(request.app.state.settings)
        scope = f"datasets/{id}/records/{query.split}"
        cursor = tokens.read(scope=scope, token=query.page_token)
        after = -1 if cursor is None else int(cursor)
        facts, last = state.records.page(dataset, split=query.split, after=after, size=query.page_size)
        token = None if last is None else tokens.sign(scope=scope, cursor=str(last))
        return Page(items=[Record.of(fact) for fact in facts], next_page_token=token)

    @router.get(
        "/v1/datasets/{id}/records/{record}/image",
        summary="Look at a film",
        dependencies=[requires("export", action="download")],
        response_class=Response,
        responses={200: {"description": "The film", "content": {"image/png": {}}}, 304: {"description": "Known to the caller"}},
    )
    def get_film(id: JobId, record: RecordNumber, request: Request, state: State) -> Response:  # noqa: A002
        """The picture as PNG."""
        film = state.records.film(committed_dataset(state.catalog, state.jobs, id), record)
        return immutable_response(request, film.png, sha256=film.sha256, media_type="image/png")

    return router


def training_routes() -> APIRouter:
    """Training jobs."""
    router = APIRouter(tags=["training"])

    @router.post(
        "/v1/training-jobs",
        status_code=202,
        summary="Train a model",
        dependencies=[requires("train", action="train")],
        response_model=Operation,
        openapi_extra=IDEMPOTENT,
    )
    async def start_training(body: TrainingRequest, request: Request, state: State) -> JSONResponse:
        """Start a training; its result names the model."""
        await asyncio.to_thread(require_inputs, body, catalog=state.catalog, jobs=state.jobs)
        spec = body.model_dump(mode="json")
        return await accept_job(request, state, noun="training-jobs", kind="training", job_id=new_id("job"), spec=spec, body=body)

    operation_routes(router, noun="training-jobs", kind="training", state_type=TrainerState, extend=_training_fields)

    @router.get("/v1/training-jobs/{id}/losses", summary="Read the loss curves", dependencies=[requires("read")])
    def get_losses(id: JobId, state: State) -> LossCurves:  # noqa: A002
        """One curve a phase, some seconds old while the job runs."""
        return LossCurves(curves=[LossCurve.of(curve) for curve in state.run_files.losses(_training(state, id))])

    @router.get("/v1/training-jobs/{id}/validation", summary="List the validation strips", dependencies=[requires("read")])
    def list_strips(id: JobId, state: State) -> ValidationStrips:  # noqa: A002
        """Those drawn so far."""
        return ValidationStrips(steps=state.run_files.strip_steps(_training(state, id)))

    @router.get(
        "/v1/training-jobs/{id}/validation/{step}",
        summary="Look at a validation strip",
        dependencies=[requires("export", action="download")],
        response_class=Response,
        responses={200: {"description": "The strip", "content": {"image/png": {}}}, 304: {"description": "Known to the caller"}},
    )
    def get_strip(id: JobId, step: StepNumber, request: Request, state: State) -> Response:  # noqa: A002
        """One picture of each prompt of the spec's validation, side by side, as PNG."""
        png = state.run_files.strip(_training(state, id), step)
        return immutable_response(request, png, sha256=hashlib.sha256(png).hexdigest(), media_type="image/png")

    return router


def model_routes() -> APIRouter:
    """Models that were committed."""
    router = APIRouter(tags=["models"])

    @router.get("/v1/models", summary="List the models, newest first", dependencies=[requires("read")])
    def list_models(query: Annotated[PageQuery, Query()], request: Request, state: State) -> Page[ModelManifest]:
        """One page of manifests."""
        tokens = PageTokens.open(request.app.state.settings)
        before = tokens.read(scope="models", token=query.page_token)
        found, last = state.catalog.list("model", query.page_size, before)
        return Page(items=list(found), next_page_token=None if last is None else tokens.sign(scope="models", cursor=last))

    @router.post(
        "/v1/models/import",
        status_code=202,
        summary="Import a diffusers folder",
        dependencies=[requires("train", action="train")],
        response_model=Operation,
        openapi_extra=IDEMPOTENT,
    )
    async def import_model(body: ImportRequest, request: Request, state: State) -> JSONResponse:
        """Start an import; its result names the model, the Location its operation."""
        await asyncio.to_thread(folder_of, body.uri, "uri", state.settings)
        spec = body.model_dump(mode="json")
        return await accept_job(request, state, noun="model-imports", kind="import", job_id=new_id("job"), spec=spec, body=body)

    operation_routes(router, noun="model-imports", kind="import", state_type=TrainerState, extend=_import_fields)

    @router.get(
        "/v1/models/{id}", summary="Read a model's manifest, by id or alias", dependencies=[requires("read")], response_model=ModelManifest
    )
    def get_model(id: ModelId, request: Request, state: State) -> Response:  # noqa: A002
        """Files with digests, lineage, metrics and status."""
        manifest = _model(state, id)
        response = JSONResponse(manifest.model_dump(mode="json"))
        if manifest.id != id:
            return response
        return immutable_response(request, bytes(response.body), sha256=manifest.digest, media_type="application/json")

    @router.put("/v1/models/{id}/aliases/{alias}", summary="Point an alias at a model", dependencies=[requires("admin", action="admin")])
    def set_alias(id: ModelId, alias: AliasName, request: Request, state: State) -> Alias:  # noqa: A002
        """Move the alias here, wherever it pointed before."""
        state.catalog.get("model", id)
        record_of(request).found({"model": id, "alias": alias})
        record_of(request).begin()
        state.catalog.set_alias("model", alias, id)
        return Alias(alias=alias, model=id)

    return router


def _dataset_fields(state: TrainerState, job: Job) -> dict[str, Any]:
    return describe_dataset(state.catalog, job)


def _dataset_without_job(state: TrainerState, dataset_id: str) -> dict[str, Any]:
    return dataset_without_job(state.catalog, dataset_id)


def _training_fields(_state: TrainerState, job: Job) -> dict[str, Any]:
    return {"name": job.spec["name"], "dataset": job.spec["dataset"], "spec": job.spec}


def _training(state: TrainerState, job_id: str) -> str:
    """The id of a training job; NotFoundError where there is none."""
    return job_of_kind(state, job_id, noun="training-jobs", kind="training").id


def _import_fields(_state: TrainerState, job: Job) -> dict[str, Any]:
    return {"name": job.spec["name"], "spec": job.spec}


def _model(state: TrainerState, name: str) -> ModelManifest:
    """A model by id or alias; ids hold an underscore, aliases never do."""
    return state.catalog.get("model", name if "_" in name else state.catalog.get_alias("model", name))
