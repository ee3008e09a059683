"""The mitigator's routes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from services.mitigator.mitigation import SafeImage
from services.mitigator.registry import AUTO, STRATEGIES
from services.mitigator.schemas import EvidenceReply, GenerationReply, GenerationRequest, ImageReply, StrategiesReply, StrategyReply
from services.mitigator.state import MitigatorState
from shared.catalog import new_id
from shared.http.access import requires
from shared.http.idempotency import IDEMPOTENT, answered_once
from shared.http.recording import RequestRecord, record_of
from shared.http.state import state_of
from shared.imaging.png import encode_png

State = Annotated[MitigatorState, Depends(state_of(MitigatorState))]


def mitigation_routes() -> APIRouter:
    """Strategies, and images drawn by them."""
    router = APIRouter(tags=["mitigation"])

    @router.get("/v1/strategies", summary="What can be done about a memorized prompt", dependencies=[requires("read")])
    def list_strategies() -> StrategiesReply:
        """Names, parameters, costs and sources."""
        return StrategiesReply(items=[_auto(), *(_described(name) for name in STRATEGIES)])

    @router.post(
        "/v1/generations",
        summary="Draw images that are no patient's, with evidence",
        dependencies=[requires("mitigate", action="mitigate")],
        response_model=GenerationReply,
        openapi_extra=IDEMPOTENT,
    )
    async def generate(body: GenerationRequest, request: Request, state: State) -> Response:
        """Images under the thresholds with what was asked still in them; 409 with the evidence where no strategy achieves that.

        Requests that come together share passes; a caller that goes away stops its own. Cost in forward passes: 2·steps an image
        for the plain one and for each plan tried (one with a named strategy, at most five with auto), besides the strategies' own.
        """
        record = record_of(request)
        record.about({"model": body.model}, prompts=body.prompts, images=len(body.prompts) * body.images_per_prompt)
        return await answered_once(request, body, lambda: _released(body, state, record))

    return router


async def _released(body: GenerationRequest, state: MitigatorState, record: RequestRecord) -> GenerationReply:
    """The request's safe images, encoded off the loop."""
    model = await asyncio.to_thread(state.catalog.get, "model", body.model)
    token_ids = await asyncio.to_thread(state.windows.token_ids, body.model, body.prompts)
    await record.charge_images(model_digest=model.digest, token_ids=token_ids, images_per_prompt=body.images_per_prompt)
    answer = await asyncio.to_thread(_answer, await state.release(body))
    record.found({"generation": answer.id})
    return answer


def _answer(released: Sequence[tuple[int, SafeImage]]) -> GenerationReply:
    """The released images as the wire has them."""
    return GenerationReply(id=new_id("generation"), images=[_image(prompt_index, image) for prompt_index, image in released])


def _image(prompt_index: int, image: SafeImage) -> ImageReply:
    png = encode_png(image.pixels_HW)
    return ImageReply(
        prompt_index=prompt_index,
        seed=image.seed,
        png=base64.b64encode(png).decode("ascii"),
        sha256=hashlib.sha256(png).hexdigest(),
        evidence=EvidenceReply.model_validate(image.evidence.as_json()),
    )


def _described(name: str) -> StrategyReply:
    strategy = STRATEGIES[name].strategy
    schema = STRATEGIES[name].parameters.model_json_schema()
    return StrategyReply(name=name, summary=strategy.summary, parameters=schema, cost=strategy.cost, paper=strategy.paper)


def _auto() -> StrategyReply:
    return StrategyReply(
        name=AUTO,
        summary="Tries compositions of the strategies, least change first, until each image is safe and shows what was asked.",
        parameters={"type": "object", "properties": {}, "additionalProperties": False},
        cost="the tried strategies' own, and 2 forwards a step for each image and composition tried; at most 6",
        paper="Lethe",
    )
