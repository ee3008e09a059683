"""How a request goes through the mitigator: one at a time, counted, traced, refused early."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from services.mitigator.mitigation import Screening
from services.mitigator.registry import AUTO, STRATEGIES
from services.mitigator.schemas import GenerationRequest
from services.mitigator.state import MitigatorState
from shared.catalog import open_catalog
from shared.diffusion.lane import ComputeLane
from shared.diffusion.library import ModelLibrary
from shared.errors import NotFoundError, SaturatedError
from tests.denoisers import PROMPTS
from tests.services.mitigator.conftest import Home
from tests.services.mitigator.doubles import GOOD, FakeDetector, ScriptedJudge

pytestmark = pytest.mark.anyio


def count(name: str, mitigation: str) -> float:
    """A counter's value now."""
    return REGISTRY.get_sample_value(name, {"mitigation": mitigation}) or 0.0


def body(home: Home, **other: Any) -> dict[str, Any]:
    """A small request."""
    return {"model": home.model, "prompts": PROMPTS[:1], "images_per_prompt": 2, "steps": 1, **other}


async def test_images_and_seconds_are_counted_under_the_asked_strategy(mitigator: httpx.AsyncClient, mitigator_home: Home) -> None:
    names = ("lethe_images_generated_total", "lethe_generation_duration_seconds_count")
    before = [count(name, "guidance_timing") for name in names]
    response = await mitigator.post("/v1/generations", json=body(mitigator_home, mitigation={"strategy": "guidance_timing"}))
    assert response.status_code == 200
    assert [count(name, "guidance_timing") for name in names] == [before[0] + 2, before[1] + 1]


@pytest.mark.parametrize("name", [AUTO, *STRATEGIES])
def test_refusals_of_every_strategy_are_shown_before_the_first(name: str) -> None:
    assert REGISTRY.get_sample_value("lethe_mitigations_refused_total", {"mitigation": name}) is not None


async def test_refusal_is_counted_and_releases_no_image(mitigator: httpx.AsyncClient, mitigator_home: Home, detector: FakeDetector) -> None:
    detector.verdicts = lambda _question: ("copy", 0.95, 1.0)
    names = ("lethe_mitigations_refused_total", "lethe_images_generated_total")
    before = [count(name, "auto") for name in names]
    assert (await mitigator.post("/v1/generations", json=body(mitigator_home))).status_code == 409
    assert [count(name, "auto") for name in names] == [before[0] + 1, before[1]]


async def test_callers_trace_reaches_the_detector(mitigator: httpx.AsyncClient, mitigator_home: Home, detector: FakeDetector) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    await mitigator.post("/v1/generations", json=body(mitigator_home), headers=headers)
    assert len(detector.traces) == 2
    assert {parent.split("-")[1] for parent in detector.traces} == {trace}


class SlowJudge(ScriptedJudge):
    """Answers once it is let go."""

    def __init__(self) -> None:
        super().__init__([[GOOD, GOOD]] * 3)
        self.entered, self.go = threading.Event(), threading.Event()

    def screen(self, model_id: str, prompt: str) -> Screening:
        assert model_id.startswith("mdl_")
        self.entered.set()
        assert self.go.wait(30)
        return super().screen("mdl_test", prompt)


async def test_full_queue_refuses_at_once_and_waiting_requests_are_worked(mitigator_home: Home) -> None:
    judge, lane = SlowJudge(), ComputeLane(max_waiting=1)
    request = GenerationRequest.model_validate(body(mitigator_home))
    with open_catalog(mitigator_home.settings) as catalog:
        state = MitigatorState(catalog=catalog, library=ModelLibrary(catalog), lane=lane, judge=judge)
        first = asyncio.create_task(state.release(request))
        assert await asyncio.to_thread(judge.entered.wait, 30)
        second = asyncio.create_task(state.release(request))
        async with asyncio.timeout(30):
            while not lane.is_saturated:  # noqa: ASYNC110 - the lane tells nobody
                await asyncio.sleep(0.01)
        with pytest.raises(SaturatedError):
            await state.release(request)
        with pytest.raises(NotFoundError):  # refused before anything waits
            await state.release(request.model_copy(update={"model": "mdl_unheard"}))
        judge.go.set()
        assert [len(released) for released in await asyncio.gather(first, second)] == [2, 2]
        lane.close()


async def test_request_given_up_while_it_waits_is_never_worked(mitigator_home: Home) -> None:
    judge, lane = SlowJudge(), ComputeLane()
    request = GenerationRequest.model_validate(body(mitigator_home))
    with open_catalog(mitigator_home.settings) as catalog:
        state = MitigatorState(catalog=catalog, library=ModelLibrary(catalog), lane=lane, judge=judge)
        first = asyncio.create_task(state.release(request))
        assert await asyncio.to_thread(judge.entered.wait, 30)
        waiting = asyncio.create_task(state.release(request))
        await asyncio.sleep(0.1)
        waiting.cancel()
        judge.go.set()
        assert len(await first) == 2
        with pytest.raises(asyncio.CancelledError):
            await waiting
        lane.close()
    assert len(judge.asked) == 1
