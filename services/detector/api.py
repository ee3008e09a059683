"""The detector's routes: prompts or images in, risk out."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from services.detector.records import calibration_without_job, describe_calibration, describe_gallery, gallery_without_job
from services.detector.schemas import (
    CalibrationRequest,
    GalleryRequest,
    MatchAnswer,
    MatchRequest,
    ScreeningAnswer,
    ScreeningRequest,
    ScreeningResult,
    Token,
)
from services.detector.screening import Verdict
from services.detector.state import DetectorState
from shared.catalog import new_id
from shared.http.access import requires
from shared.http.idempotency import IDEMPOTENT, answered_once
from shared.http.operations import Operation, accept_job, operation_routes
from shared.http.recording import record_of
from shared.http.state import state_of
from shared.jobs.records import Job
from shared.memorization.prompt_scoring import ScreeningSettings

State = Annotated[DetectorState, Depends(state_of(DetectorState))]


def gallery_routes() -> APIRouter:
    """Building galleries."""
    router = APIRouter(tags=["galleries"])

    @router.post(
        "/v1/galleries",
        status_code=202,
        summary="Build the gallery of a data set",
        dependencies=[requires("train", action="train")],
        response_model=Operation,
        openapi_extra=IDEMPOTENT,
    )
    async def build(body: GalleryRequest, request: Request, state: State) -> JSONResponse:
        """Start training the embedder and the reader; the id is the gallery's own."""
        await asyncio.to_thread(state.catalog.get, "dataset", body.dataset)
        spec = body.model_dump(mode="json")
        return await accept_job(request, state, noun="galleries", kind="gallery", job_id=new_id("gallery"), spec=spec, body=body)

    operation_routes(
        router,
        noun="galleries",
        kind="gallery",
        state_type=DetectorState,
        extend=_gallery_fields,
        missing=_gallery_without_job,
        listed=False,
    )
    return router


def calibration_routes() -> APIRouter:
    """Making calibrations."""
    router = APIRouter(tags=["calibrations"])

    @router.post(
        "/v1/calibrations",
        status_code=202,
        summary="Calibrate the screening of a model",
        dependencies=[requires("train", action="train")],
        response_model=Operation,
        openapi_extra=IDEMPOTENT,
    )
    async def calibrate(body: CalibrationRequest, request: Request, state: State) -> JSONResponse:
        """Start scoring control prompts; the id is the calibration's own."""
        await asyncio.to_thread(_require_inputs, body, state)
        spec = body.model_dump(mode="json")
        return await accept_job(request, state, noun="calibrations", kind="calibration", job_id=new_id("calibration"), spec=spec, body=body)

    operation_routes(
        router,
        noun="calibrations",
        kind="calibration",
        state_type=DetectorState,
        extend=_calibration_fields,
        missing=_calibration_without_job,
    )
    return router


def judging_routes() -> APIRouter:
    """Judging prompts and images."""
    router = APIRouter(tags=["judging"])

    @router.post(
        "/v1/screenings",
        summary="Judge prompts before anything is drawn",
        dependencies=[requires("score", action="score")],
        response_model=ScreeningAnswer,
        openapi_extra=IDEMPOTENT,
    )
    async def screen(body: ScreeningRequest, request: Request, state: State) -> Response:
        """A verdict on each prompt, by the newest calibration for these settings."""
        record_of(request).about({"model": body.model}, prompts=body.prompts)
        return await answered_once(request, body, lambda: _screened(body, state))

    @router.post(
        "/v1/matches",
        summary="Look for images among the training films",
        dependencies=[requires("score", action="score")],
        response_model=MatchAnswer,
        openapi_extra=IDEMPOTENT,
    )
    async def match(body: MatchRequest, request: Request, state: State) -> Response:
        """The nearest training films of each image, and with prompts what is seen of them."""
        record_of(request).about({"dataset": body.dataset}, prompts=body.prompts or (), images=len(body.images))
        return await answered_once(request, body, lambda: state.matcher.match(body))

    return router


async def _screened(body: ScreeningRequest, state: DetectorState) -> ScreeningAnswer:
    """The verdicts as the wire has them."""
    settings = ScreeningSettings(steps=body.steps, seeds_per_prompt=body.seeds_per_prompt, seed=body.seed)
    screening = await state.screener.screen(body.model, body.prompts, settings, explain=body.explain)
    manifest = screening.calibration.manifest
    results = [_result(verdict) for verdict in screening.verdicts]
    return ScreeningAnswer(results=results, calibration=manifest.id, control_median=manifest.control_median)


def _result(verdict: Verdict) -> ScreeningResult:
    tokens = None if verdict.tokens is None else [Token(text=word.text, weight=word.weight) for word in verdict.tokens]
    return ScreeningResult(
        decision=verdict.decision,
        score=verdict.score,
        p_value=verdict.p_value,
        threshold=verdict.threshold,
        signals={"noise_magnitude": verdict.score},
        tokens=tokens,
        reasons=verdict.reasons,
    )


def _require_inputs(body: CalibrationRequest, state: DetectorState) -> None:
    """Refuse a calibration whose model or data set does not exist."""
    state.catalog.get("model", body.model)
    state.catalog.get("dataset", body.dataset)


def _gallery_fields(state: DetectorState, job: Job) -> dict[str, Any]:
    return describe_gallery(state.catalog, job)


def _calibration_fields(state: DetectorState, job: Job) -> dict[str, Any]:
    return describe_calibration(state.catalog, job)


def _gallery_without_job(state: DetectorState, gallery_id: str) -> dict[str, Any]:
    return gallery_without_job(state.catalog, gallery_id)


def _calibration_without_job(state: DetectorState, calibration_id: str) -> dict[str, Any]:
    return calibration_without_job(state.catalog, calibration_id)
