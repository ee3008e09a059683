"""What mitigated requests work with side by side: the model, pictures drawn together, and the judge, all off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.mitigator.mitigation import Judge, Order
from services.mitigator.strategy import Plan
from services.mitigator.turns import AT_ONCE
from shared.diffusion.model import Model
from shared.diffusion.studio import Manner, Picture, Studio

ResultT = TypeVar("ResultT")

QUESTIONS: Final = AT_ONCE  # that the judge is asked side by side: one of each request that is worked on


class SharedWorkshop:
    """The studio that all requests share, and threads on which the judge is asked."""

    def __init__(self, studio: Studio, judge: Judge) -> None:
        self._studio = studio
        self._judge = judge
        self._threads = ThreadPoolExecutor(QUESTIONS, thread_name_prefix="judge")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[SharedWorkshop]:
        """Work while the block lasts; a question under way is waited for when the process ends, at most until the judge's deadline."""
        try:
            async with self._studio.serving():
                yield self
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def compute(self, model_id: str, work: Callable[[Model], ResultT]) -> ResultT:
        """What `work` makes of the model."""
        return await self._studio.compute(model_id, work)

    async def draw(self, order: Order, plan: Plan, seeds: Sequence[int]) -> NDArray[np.uint8]:
        """The plan's images, one a seed, in passes that are shared with all whose guidance, steps and scheduler are the same."""
        manner = Manner(order.model_id, order.steps, order.scheduler, plan.make_guidance)
        return await self._studio.draw(manner, [Picture(plan.conditioning, seed) for seed in seeds])

    async def ask(self, question: Callable[[Judge], ResultT]) -> ResultT:
        """What the judge answers; it is asked in the caller's context, whose trace and name go with the question."""
        context = copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: context.run(question, self._judge))
