"""Drawing together: shared passes, the same images as alone, and what becomes of who goes away or does not fit."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from shared.diffusion import studio as studio_module
from shared.diffusion.generation import generate_images
from shared.diffusion.guidance import ClassifierFreeGuidance, PlainGuidance
from shared.diffusion.lane import ComputeLane
from shared.diffusion.library import ModelLibrary
from shared.diffusion.studio import Manner, Picture, Studio
from shared.errors import JobCancelledError, OutOfDeviceMemoryError
from tests.denoisers import PROMPTS, counted_forwards, held

if TYPE_CHECKING:
    from shared.catalog import Catalog
    from shared.diffusion.model import Model
    from tests.fixtures.models import StockedHome

TOLERANCE = 1  # grey levels of 255: rounding of another batch shape


@pytest.fixture
def library(stocked_catalog: Catalog) -> ModelLibrary:
    return ModelLibrary(stocked_catalog, device="cpu")


@pytest.fixture
async def studio(library: ModelLibrary, anyio_backend: str) -> AsyncIterator[Studio]:
    del anyio_backend
    lane = ComputeLane()
    async with Studio(library, lane).serving() as opened:
        yield opened
    lane.close()


@pytest.fixture
def manner(stocked_home: StockedHome) -> Manner:
    return Manner(stocked_home.model.id, 3, "ddim", PlainGuidance(3.0))


def alone(model: Model, prompt: str, seed: int, scale: float = 3.0) -> Any:
    """What the loop draws without any company."""
    return generate_images(model, [prompt], images_per_prompt=1, seed=seed, steps=3, guidance=ClassifierFreeGuidance(scale))[0]


def distance(one: Any, other: Any) -> int:
    return int(np.abs(one.astype(int) - other).max())


async def test_requests_that_come_together_share_the_passes_of_one_loop(studio: Studio, library: ModelLibrary, manner: Manner) -> None:
    requests = [[Picture(prompt, seed) for seed in range(index + 1)] for index, prompt in enumerate(PROMPTS)]
    with counted_forwards(held(library, manner.model)) as seen:
        drawn = await asyncio.gather(*(studio.draw(manner, pictures) for pictures in requests))
    assert (seen.calls, seen.conditional, seen.unconditional) == (3, 3 * 10, 3 * 10)
    assert [len(images) for images in drawn] == [1, 2, 3, 4]


async def test_image_is_the_same_in_a_batch_and_alone(studio: Studio, library: ModelLibrary, manner: Manner) -> None:
    pictures = [[Picture(prompt, 7 * index), Picture(prompt, 2**53 - 1)] for index, prompt in enumerate(PROMPTS)]
    drawn = await asyncio.gather(*(studio.draw(manner, two) for two in pictures))
    model = held(library, manner.model)
    for prompt, two, images in zip(PROMPTS, pictures, drawn, strict=True):
        assert [distance(image, alone(model, prompt, one.seed)) <= TOLERANCE for one, image in zip(two, images, strict=True)] == [True] * 2


async def test_conditioning_of_a_strategy_shares_the_pass_with_prompts(studio: Studio, library: ModelLibrary, manner: Manner) -> None:
    model = held(library, manner.model)
    with counted_forwards(model) as seen:
        (told,), (read,) = await asyncio.gather(
            studio.draw(manner, [Picture(model.encode(PROMPTS[:1]), 5)]), studio.draw(manner, [Picture(PROMPTS[0], 5)])
        )
    assert seen.calls == 3
    assert distance(told, read) <= TOLERANCE


@pytest.mark.parametrize("change", [{"steps": 2}, {"scheduler": "euler"}, {"make_guidance": PlainGuidance(4.0)}])
async def test_other_manners_are_drawn_apart(studio: Studio, library: ModelLibrary, manner: Manner, change: dict[str, Any]) -> None:
    other = Manner(**{**vars(manner), **change})
    with counted_forwards(held(library, manner.model)) as seen:
        await asyncio.gather(studio.draw(manner, [Picture("a", 0)]), studio.draw(other, [Picture("a", 0)]))
    assert seen.calls == manner.steps + other.steps


async def test_large_pictures_are_drawn_in_passes_of_their_size(
    studio: Studio, library: ModelLibrary, manner: Manner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studio_module, "batch_size", lambda _model: 2)
    drawn = await studio.draw(manner, [Picture(PROMPTS[0], seed) for seed in range(5)])
    model = held(library, manner.model)
    assert [distance(image, alone(model, PROMPTS[0], seed)) <= TOLERANCE for seed, image in enumerate(drawn)] == [True] * 5


async def test_large_pictures_hold_a_small_request_up_for_one_pass(studio: Studio, manner: Manner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studio_module, "batch_size", lambda _model: 2)
    ended: list[str] = []

    async def draw(name: str, asked: Manner, count: int) -> None:
        await studio.draw(asked, [Picture(PROMPTS[0], seed) for seed in range(count)])
        ended.append(name)

    other = Manner(**{**vars(manner), "scheduler": "euler"})
    await asyncio.gather(draw("six", manner, 6), draw("two", manner, 2), draw("other", other, 1))
    assert ended == ["two", "other", "six"]


async def test_out_of_memory_halves_batch_then_reports(
    studio: Studio, library: ModelLibrary, manner: Manner, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, rooms = studio_module.draw_images, iter([2, 2, 2, 1, 1])
    sizes: list[int] = []

    def cramped(model: Model, conditioning: Any, seeds: list[int], **words: Any) -> Any:
        sizes.append(len(seeds))
        if len(seeds) > next(rooms):
            raise torch.OutOfMemoryError
        return whole(model, conditioning, seeds, **words)

    monkeypatch.setattr(studio_module, "draw_images", cramped)
    pictures = [Picture(PROMPTS[0], seed) for seed in range(4)]
    drawn = await studio.draw(manner, pictures)
    model = held(library, manner.model)
    assert [distance(image, alone(model, PROMPTS[0], seed)) <= TOLERANCE for seed, image in enumerate(drawn)] == [True] * 4
    with pytest.raises(OutOfDeviceMemoryError):
        await studio.draw(manner, pictures)
    assert sizes == [4, 2, 2, 4, 2]


class Hold:
    """Stops the loop after its first step until it is let go, or nobody waits for it any more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.steps = 0
        draw = studio_module.draw_images

        def stopped(*args: Any, on_step: Callable[[], None], **words: Any) -> Any:
            def step() -> None:
                self.steps += 1
                self.begun.set()
                deadline = time.monotonic() + 30
                while not self.go.wait(0.005):
                    assert time.monotonic() < deadline
                    on_step()

            return draw(*args, on_step=step, **words)

        monkeypatch.setattr(studio_module, "draw_images", stopped)


async def test_caller_that_goes_away_leaves_the_others_their_images(
    studio: Studio, library: ModelLibrary, manner: Manner, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = Hold(monkeypatch)
    leaving, staying = (asyncio.create_task(studio.draw(manner, [Picture(PROMPTS[0], seed)])) for seed in (1, 2))
    assert await asyncio.to_thread(hold.begun.wait, 30)
    leaving.cancel()
    await asyncio.sleep(0.01)
    hold.go.set()
    (image,) = await staying
    assert distance(image, alone(held(library, manner.model), PROMPTS[0], 2)) <= TOLERANCE
    assert leaving.cancelled()
    assert hold.steps == manner.steps


async def test_drawing_that_nobody_waits_for_ends_after_the_step(studio: Studio, manner: Manner, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = Hold(monkeypatch)
    leaving = asyncio.create_task(studio.draw(manner, [Picture(PROMPTS[0], 1)]))
    assert await asyncio.to_thread(hold.begun.wait, 30)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await studio.compute(manner.model, lambda _model: None)  # the lane is free again
    assert hold.steps == 1


async def test_work_on_the_model_takes_its_turn_on_the_lane(studio: Studio, library: ModelLibrary, manner: Manner) -> None:
    model, thread = await studio.compute(manner.model, lambda model: (model, threading.current_thread().name))
    assert model is held(library, manner.model)
    assert thread.startswith("compute")


async def test_failure_of_the_work_is_the_callers(studio: Studio, manner: Manner) -> None:
    def fail(_model: Model) -> None:
        raise JobCancelledError

    with pytest.raises(JobCancelledError):
        await studio.compute(manner.model, fail)
