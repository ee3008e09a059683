"""Drawing and keeping images."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from prometheus_client import REGISTRY

from services.sampler.generations import Drawn, Order, draw, image_path, store, stored_image
from shared.catalog import new_id
from shared.diffusion.generation import generate_images
from shared.diffusion.guidance import ClassifierFreeGuidance
from shared.diffusion.lane import ComputeLane
from shared.diffusion.library import ModelLibrary
from shared.diffusion.prompt_windows import PromptWindows
from shared.diffusion.studio import Studio
from shared.errors import IntegrityError, InvalidRequestError, NotFoundError
from shared.imaging.png import decode_png

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from shared.catalog import Catalog
    from shared.diffusion.model import Model
    from tests.fixtures.models import StockedHome

    Draw = Callable[[Order], Awaitable[list[Drawn]]]

PROMPTS = ("chest X-ray, AP, cardiomegaly", "chest X-ray, PA, no finding")


@pytest.fixture
async def drawing(stocked_catalog: Catalog, anyio_backend: str) -> AsyncIterator[Draw]:
    """Draws orders in a studio of the test's own."""
    del anyio_backend
    lane, windows = ComputeLane(), PromptWindows(stocked_catalog)
    async with Studio(ModelLibrary(stocked_catalog, device="cpu"), lane).serving() as studio:
        yield lambda order: draw(order, studio, windows)
    lane.close()


@pytest.fixture
def order(stocked_home: StockedHome) -> Order:
    return Order(
        model=stocked_home.model.id, prompts=PROMPTS, images_per_prompt=2, steps=3, guidance_scale=3.0, scheduler="ddim", seed=2**53 - 1
    )


async def test_images_are_those_of_the_loop_by_prompt_and_then_by_seed(order: Order, drawing: Draw, tiny_model: Model) -> None:
    counted = REGISTRY.get_sample_value("lethe_images_generated_total", {"mitigation": "none"}) or 0
    drawn = await drawing(order)
    assert [(image.prompt_index, image.seed) for image in drawn] == [(0, 2**53 - 1), (0, 0), (1, 2**53 - 1), (1, 0)]
    expected = generate_images(
        tiny_model, PROMPTS, images_per_prompt=2, seed=order.seed, steps=3, guidance=ClassifierFreeGuidance(3.0), scheduler="ddim"
    )
    assert np.array_equal(np.stack([decode_png(image.png, max_pixels=1024) for image in drawn]), expected)
    assert all(hashlib.sha256(image.png).hexdigest() == image.sha256 for image in drawn)
    assert REGISTRY.get_sample_value("lethe_images_generated_total", {"mitigation": "none"}) == counted + 4


async def test_image_made_alone_from_its_seed_is_the_same(order: Order, drawing: Draw) -> None:
    third = (await drawing(order))[3]
    (alone,) = await drawing(replace(order, prompts=[PROMPTS[third.prompt_index]], images_per_prompt=1, seed=third.seed))
    difference = decode_png(alone.png, max_pixels=1024).astype(int) - decode_png(third.png, max_pixels=1024)
    assert np.abs(difference).max() <= 1


async def test_stored_generation_holds_all_but_the_words(
    order: Order, drawing: Draw, stocked_home: StockedHome, stocked_catalog: Catalog
) -> None:
    drawn = await drawing(order)
    manifest = store(new_id("generation"), order, drawn, stocked_catalog, stocked_home.settings)
    assert stocked_catalog.get("generation", manifest.id) == manifest
    assert manifest.request["steps"] == 3
    assert manifest.lineage["model_digest"] == stocked_home.model.digest
    assert "cardiomegaly" not in manifest.model_dump_json()
    for number, image in enumerate(drawn):
        assert stored_image(stocked_catalog, manifest.id, number) == (image.png, image.sha256)
    assert list((stocked_home.folder / "generations").iterdir()) == []


def test_image_that_is_not_there_is_named(order: Order, stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    manifest = store(new_id("generation"), order, [], stocked_catalog, stocked_home.settings)
    with pytest.raises(NotFoundError, match=f"{manifest.id} has no image 0"):
        stored_image(stocked_catalog, manifest.id, 0)


async def test_damaged_image_is_refused(order: Order, drawing: Draw, stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    drawn = await drawing(replace(order, images_per_prompt=1))
    manifest = store(new_id("generation"), order, drawn, stocked_catalog, stocked_home.settings)
    path = stocked_home.folder / "store" / "generations" / manifest.id / image_path(1)
    path.chmod(0o644)
    path.write_bytes(drawn[0].png)
    with pytest.raises(IntegrityError):
        stored_image(stocked_catalog, manifest.id, 1)


async def test_prompt_that_is_too_long_is_refused_before_anything_is_drawn(
    order: Order, drawing: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Studio, "draw", None)
    with pytest.raises(InvalidRequestError, match="the text encoder reads 64") as caught:
        await drawing(replace(order, prompts=[PROMPTS[0], PROMPTS[0], "edema " * 90]))
    assert caught.value.field == "prompts.2"
