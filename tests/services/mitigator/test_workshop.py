"""The workshop: the judge is asked off the event loop in the caller's context, and a question that hangs holds nobody up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest

from services.mitigator.workshop import QUESTIONS, SharedWorkshop
from shared.catalog import open_catalog
from shared.diffusion.lane import ComputeLane
from shared.diffusion.library import ModelLibrary
from shared.diffusion.studio import Studio
from tests.services.mitigator.conftest import Home
from tests.services.mitigator.doubles import ScriptedJudge

CALLER: ContextVar[str] = ContextVar("caller", default="")


@pytest.fixture
async def workshop(mitigator_home: Home, anyio_backend: str) -> AsyncIterator[SharedWorkshop]:
    del anyio_backend
    lane = ComputeLane()
    with open_catalog(mitigator_home.settings) as catalog:
        async with SharedWorkshop(Studio(ModelLibrary(catalog), lane), ScriptedJudge([])).open() as opened:
            yield opened
    lane.close()


async def test_judge_is_asked_in_the_callers_context_and_off_the_loop(workshop: SharedWorkshop) -> None:
    async def ask(name: str) -> tuple[str, str, bool]:
        CALLER.set(name)
        return await workshop.ask(lambda judge: (CALLER.get(), threading.current_thread().name[:5], isinstance(judge, ScriptedJudge)))

    assert await asyncio.gather(ask("a"), ask("b")) == [("a", "judge", True), ("b", "judge", True)]


async def test_questions_that_hang_leave_other_threads_alone_and_who_goes_away_is_let_go(workshop: SharedWorkshop) -> None:
    go = threading.Event()
    hanging = [asyncio.create_task(workshop.ask(lambda _judge: go.wait(30))) for _ in range(QUESTIONS)]
    try:
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 30) == "free"
        hanging[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging[0]
    finally:
        go.set()
    assert await asyncio.gather(*hanging[1:]) == [True] * (QUESTIONS - 1)


async def test_model_is_computed_with_on_the_lane(workshop: SharedWorkshop, mitigator_home: Home) -> None:
    def look(model: Any) -> tuple[int, str]:
        return model.image_size, threading.current_thread().name[:7]

    assert await workshop.compute(mitigator_home.model, look) == (32, "compute")
