"""How a request goes through the mitigator: side by side, counted, traced, refused early."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import REGISTRY

from services.mitigator.mitigation import Screening
from services.mitigator.registry import AUTO, STRATEGIES
from services.mitigator.schemas import GenerationRequest
from services.mitigator.state import MitigatorState
from services.mitigator.turns import Turns
from services.mitigator.workshop import SharedWorkshop
from shared.catalog import open_catalog
from shared.diffusion import studio
from shared.diffusion.lane import ComputeLane
from shared.diffusion.library import ModelLibrary
from shared.diffusion.prompt_windows import PromptWindows
from shared.diffusion.studio import Studio
from shared.errors import InvalidRequestError, NotFoundError, SaturatedError
from shared.imaging.png import decode_png
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


@asynccontextmanager
async def opened(home: Home, judge: ScriptedJudge, turns: Turns) -> AsyncIterator[MitigatorState]:
    """A state with this judge."""
    lane = ComputeLane()
    with open_catalog(home.settings) as catalog:
        async with SharedWorkshop(Studio(ModelLibrary(catalog), lane), judge).open() as workshop:
            yield MitigatorState(catalog=catalog, windows=PromptWindows(catalog), workshop=workshop, turns=turns)
    lane.close()


async def saturated(turns: Turns) -> None:
    """Wait until all places are taken."""
    async with asyncio.timeout(30):
        while not turns.is_saturated:  # noqa: ASYNC110 - the turns tell nobody
            await asyncio.sleep(0.01)


async def test_full_queue_refuses_at_once_and_waiting_requests_are_worked(mitigator_home: Home) -> None:
    judge, turns = SlowJudge(), Turns(at_once=1, max_waiting=1)
    request = GenerationRequest.model_validate(body(mitigator_home))
    async with opened(mitigator_home, judge, turns) as state:
        first = asyncio.create_task(state.release(request))
        assert await asyncio.to_thread(judge.entered.wait, 30)
        second = asyncio.create_task(state.release(request))
        await saturated(turns)
        with pytest.raises(SaturatedError):
            await state.release(request)
        with pytest.raises(NotFoundError):  # refused before anything waits
            await state.release(request.model_copy(update={"model": "mdl_unheard"}))
        with pytest.raises(InvalidRequestError) as refused:
            await state.release(request.model_copy(update={"prompts": [PROMPTS[0], "edema " * 90]}))
        assert refused.value.field == "prompts.1"
        judge.go.set()
        assert [len(released) for released in await asyncio.gather(first, second)] == [2, 2]


async def test_request_given_up_while_it_waits_is_never_worked(mitigator_home: Home) -> None:
    judge, turns = SlowJudge(), Turns(at_once=1, max_waiting=1)
    request = GenerationRequest.model_validate(body(mitigator_home))
    async with opened(mitigator_home, judge, turns) as state:
        first = asyncio.create_task(state.release(request))
        assert await asyncio.to_thread(judge.entered.wait, 30)
        waiting = asyncio.create_task(state.release(request))
        await saturated(turns)
        waiting.cancel()
        judge.go.set()
        assert len(await first) == 2
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert len(judge.asked) == 1


async def test_requests_side_by_side_share_passes_whatever_their_strategies_did_to_the_prompt(
    mitigator: httpx.AsyncClient, mitigator_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    whole = studio.draw_images

    def counted(model: Any, conditioning: Any, seeds: list[int], **words: Any) -> Any:
        drawn.append(len(seeds))
        return whole(model, conditioning, seeds, **words)

    monkeypatch.setattr(studio, "draw_images", counted)
    names = [{"strategy": "auto"}, {"strategy": "prompt_generalisation"}, {"strategy": "auto"}]
    requests = [
        mitigator.post("/v1/generations", json=body(mitigator_home, prompts=[PROMPTS[index]], seed=index, mitigation=name))
        for index, name in enumerate(names)
    ]
    answers = await asyncio.gather(*requests)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert sum(drawn) == 8  # two images each, and those of the generalised prompt again
    assert len(drawn) < 4


async def test_image_of_a_request_side_by_side_is_the_one_it_has_alone(mitigator: httpx.AsyncClient, mitigator_home: Home) -> None:
    def post(index: int) -> Any:
        return mitigator.post("/v1/generations", json=body(mitigator_home, prompts=[PROMPTS[index]], seed=index))

    together = await asyncio.gather(*(post(index) for index in range(3)))
    for index, answer in enumerate(together):
        alone = (await post(index)).json()["images"]
        for one, other in zip(answer.json()["images"], alone, strict=True):
            assert one["evidence"] == other["evidence"]
            assert np.abs(pixels(one).astype(int) - pixels(other)).max() <= 1  # grey levels: rounding of another batch shape


def pixels(image: dict[str, Any]) -> Any:
    return decode_png(base64.b64decode(image["png"]), max_pixels=1024)
