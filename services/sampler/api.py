"""The sampler's routes: prompts in, images out."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from services.sampler.generations import Drawn, Order, draw, store, stored_image
from services.sampler.schemas import GeneratedImage, Generation, GenerationRequest, StoredGeneration, StoredImage
from services.sampler.state import SamplerState
from shared.catalog import GenerationManifest, new_id
from shared.http.access import requires
from shared.http.disconnects import while_connected
from shared.http.immutable import immutable_response
from shared.http.state import state_of

State = Annotated[SamplerState, Depends(state_of(SamplerState))]
GenerationId = Annotated[str, Path(min_length=1, max_length=64, description="A stored generation's id.")]
ImageNumber = Annotated[int, Path(ge=0, le=2**31 - 1, description="The image's number in the generation, from 0.")]


def generation_routes() -> APIRouter:
    """Drawing images, and reading stored ones."""
    router = APIRouter(tags=["generations"])

    @router.post(
        "/v1/generations", summary="Draw images", dependencies=[requires("generate", action="generate")], response_model=Generation
    )
    async def generate(body: GenerationRequest, request: Request, state: State) -> JSONResponse:
        """Draw every prompt with every seed; the answer comes when all are drawn, and a caller that goes away stops the drawing."""
        await asyncio.to_thread(state.catalog.get, "model", body.model)
        order = Order(**body.model_dump(exclude={"output", "format"}))
        drawn = await while_connected(request, draw(order, state.studio, state.windows))
        if body.output == "inline":
            answer = await asyncio.to_thread(_inline, drawn)
        else:
            manifest = await asyncio.to_thread(store, order, drawn, state.catalog, state.settings)
            answer = Generation(id=manifest.id, images=[GeneratedImage(png=None, **image.model_dump()) for image in _stored(manifest)])
        return JSONResponse(answer.model_dump(mode="json"), headers={"Cache-Control": "no-store"})

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


def _inline(drawn: list[Drawn]) -> Generation:
    """The answer with the images in it."""
    images = [
        GeneratedImage(
            prompt_index=image.prompt_index, seed=image.seed, png=base64.b64encode(image.png).decode(), uri=None, sha256=image.sha256
        )
        for image in drawn
    ]
    return Generation(id=new_id("generation"), images=images)


def _stored(manifest: GenerationManifest) -> list[StoredImage]:
    """Where each image of a stored generation is."""
    return [
        StoredImage.model_validate({**image, "uri": f"/v1/generations/{manifest.id}/images/{number}"})
        for number, image in enumerate(manifest.images)
    ]
