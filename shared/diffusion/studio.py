"""Where a service's images are drawn: what is asked for at the same time and in the same manner shares the passes of one loop.

B batch, H height, W width, N images.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from shared.diffusion.batching import MicroBatcher
from shared.diffusion.generation import BATCH_IMAGES, batch_size, draw_images
from shared.diffusion.guidance import GuidanceRecipe
from shared.diffusion.lane import ComputeLane
from shared.diffusion.library import ModelLibrary
from shared.diffusion.model import Conditioning, Model
from shared.diffusion.out_of_memory import halved_where_needed
from shared.diffusion.schedulers import SchedulerName

ResultT = TypeVar("ResultT")
Image = NDArray[np.uint8]

GATHERING_SECONDS: Final = 0.01  # what a request waits for company where there was some just now; an image takes many times as long


@dataclass(frozen=True)
class Manner:
    """What images must have in common to be drawn in one pass."""

    model: str
    steps: int
    scheduler: SchedulerName
    make_guidance: GuidanceRecipe


@dataclass(frozen=True, eq=False)
class Picture:
    """One image to draw: what the model is told (a prompt that fits its window, or one prompt's conditioning), and the seed."""

    told: str | Conditioning
    seed: int


class Studio:
    """The models of a library at work on a lane."""

    def __init__(self, library: ModelLibrary, lane: ComputeLane) -> None:
        self._library = library
        self._lane = lane
        self._batcher: MicroBatcher[Manner, Picture, Image] = MicroBatcher(
            self._work, turn=lane.turn, max_batch=lambda _manner: BATCH_IMAGES, gathering_seconds=GATHERING_SECONDS
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Studio]:
        """Draw while the block lasts."""
        async with self._batcher.serving():
            yield self

    @property
    def is_saturated(self) -> bool:
        """Whether the next request would be refused."""
        return self._batcher.is_saturated or self._lane.is_saturated

    async def draw(self, manner: Manner, pictures: Sequence[Picture]) -> Image:
        """The pictures, N×H×W; SaturatedError at once when too many requests wait. Who is cancelled leaves the others' alone."""
        return np.stack(await self._batcher.submit(manner, pictures))

    async def compute(self, model_id: str, work: Callable[[Model], ResultT], *, admitted: bool = False) -> ResultT:
        """What `work` makes of the model, in its turn on the lane, which refuses no work that was `admitted`."""

        def with_model() -> ResultT:
            with self._library.use(model_id) as model:
                return work(model)

        return await self._lane.run(with_model, admitted=admitted)

    async def _work(self, manner: Manner, pictures: list[Picture]) -> list[Image]:
        return await self.compute(manner.model, lambda model: self._drawn(model, manner, pictures), admitted=True)

    def _drawn(self, model: Model, manner: Manner, pictures: Sequence[Picture]) -> list[Image]:
        """As many of the pictures as the size of the model's images allows in one pass; asked after every step whether anybody waits."""
        pictures = pictures[: batch_size(model)]
        conditioning = _conditioning(model, [picture.told for picture in pictures])
        seeds = [picture.seed for picture in pictures]

        def draw(rows: Sequence[int]) -> list[Image]:
            part = slice(rows[0], rows[-1] + 1)
            guidance = manner.make_guidance()
            return list(
                draw_images(
                    model,
                    conditioning[part],
                    seeds[part],
                    steps=manner.steps,
                    guidance=guidance,
                    scheduler=manner.scheduler,
                    on_step=self._lane.check_wanted,
                )
            )

        return halved_where_needed(draw, range(len(pictures)))


def _conditioning(model: Model, told: Sequence[str | Conditioning]) -> Conditioning:
    """One row a picture; a prompt that is told several times is encoded once."""
    row_of = _encoded(model, list(dict.fromkeys(each for each in told if isinstance(each, str))))
    rows = [row_of[each] if isinstance(each, str) else each for each in told]
    return Conditioning(torch.cat([row.embeddings_BLE for row in rows]), torch.cat([row.token_ids_BL for row in rows]))


def _encoded(model: Model, prompts: list[str]) -> dict[str, Conditioning]:
    """Each prompt's conditioning."""
    if not prompts:
        return {}
    encoded = model.encode(prompts)
    return {prompt: encoded[row : row + 1] for row, prompt in enumerate(prompts)}
