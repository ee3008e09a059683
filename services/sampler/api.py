"""The sampler's routes: prompts in, images out."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import Response

from services.sampler.generations import Drawn, Order, draw, store, stored_image
from services.sampler.schemas import GeneratedImage, Generation, GenerationRequest, StoredGeneration, StoredImage
from services.sampler.state import SamplerState
from shared.catalog import GenerationManifest, new_id
from shared.http.access import requires
from shared.http.idempotency import IDEMPOTENT, answered_once
from shared.http.immutable import immutable_response
from shared.http.recording import RequestRecord, record_of
from shared.http.state import state_of

State = Annotated[SamplerState, Depends(state_of(SamplerState))]
GenerationId = Annotated[str, Path(min_length=1, max_length=64, description="A stored generation's id.")]
ImageNumber = Annotated[int, Path(ge=0, le=2**31 - 1, description="The image's number in the generation, from 0.")]


def generation_routes() -> APIRouter:
    """Drawing images, and reading stored ones."""
    router = APIRouter(tags=["generations"])

    @router.post(
        "/v1/generations",
        summary="Draw images",
        dependencies=[requires("generate", action="generate")],
        response_model=Generation,
        openapi_extra=IDEMPOTENT,
    )
    async def generate(body: GenerationRequest, request: Request, state: State) -> Response:
        """Draw every prompt with every seed; the answer comes when all are drawn, and a caller that goes away stops the drawing."""
        record = record_of(request)
        record.about({"model": body.model}, prompts=body.prompts, images=len(body.prompts) * body.images_per_prompt)
        return await answered_once(request, body, lambda: _generation(body, state, record))

    @router.get("/v1/generations/{id}", summary="Read a stored generation", dependencies=[requires("read")])
    def get_generation(id: GenerationId, state: State) -> StoredGeneration:  # noqa: A002
        """What was asked, and where the images are."""
        manifest = state.catalog.get("generation", id)
        told = manifest.model_dump(mode="json", include={"id", "created", "model", "request"})
        return StoredGeneration(**told, images=_stored(manifest))

    @router.get(
        "/v1/generations/{id}/images/{number}",
        summary="Read a stored image",
        dependencies=[requires("generate", action="download")],
        response_class=Response,
        responses={200: {"description": "The image", "content": {"image/png": {}}}, 304: {"description": "Known to the caller"}},
    )
    def get_image(id: GenerationId, number: ImageNumber, request: Request, state: State) -> Response:  # noqa: A002
        """The image as PNG."""
        png, sha256 = stored_image(state.catalog, id, number)
        return immutable_response(request, png, sha256=sha256, media_type="image/png")

    return router


async def _generation(body: GenerationRequest, state: SamplerState, record: RequestRecord) -> Generation:
    """Draw what is asked for, and store it where that is asked too."""
    model = await asyncio.to_thread(state.catalog.get, "model", body.model)
    token_ids = await asyncio.to_thread(state.windows.token_ids, body.model, body.prompts)
    await record.charge_images(model_digest=model.digest, token_ids=token_ids, images_per_prompt=body.images_per_prompt)
    order = Order(**body.model_dump(exclude={"output", "format"}))
    drawn = await draw(order, state.studio, state.windows)
    generation_id = new_id("generation")
    record.found({"generation": generation_id})
    if body.output == "inline":
        return await asyncio.to_thread(_inline, generation_id, drawn)
    manifest = await record.lasting(lambda: store(generation_id, order, drawn, state.catalog, state.settings))
    return Generation(id=manifest.id, images=[GeneratedImage(png=None, **image.model_dump()) for image in _stored(manifest)])


def _inline(generation_id: str, drawn: list[Drawn]) -> Generation:
    """The answer with the images in it."""
    images = [
        GeneratedImage(
            prompt_index=image.prompt_index, seed=image.seed, png=base64.b64encode(image.png).decode(), uri=None, sha256=image.sha256
        )
        for image in drawn
    ]
    return Generation(id=generation_id, images=images)


def _stored(manifest: GenerationManifest) -> list[StoredImage]:
    """Where each image of a stored generation is."""
    return [
        StoredImage.model_validate({**image, "uri": f"/v1/generations/{manifest.id}/images/{number}"})
        for number, image in enumerate(manifest.images)
    ]
