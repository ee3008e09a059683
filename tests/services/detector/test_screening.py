"""Screening: the cost in forward passes, one pass for requests that come together, and verdicts that follow from scores."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import anyio
import pytest
from prometheus_client import REGISTRY

from services.detector.calibration import Calibration, Calibrations, calibration_key
from services.detector.screening import Screener, Verdict, judge
from shared.diffusion.lane import ComputeLane
from shared.diffusion.library import ModelLibrary
from shared.diffusion.prompt_windows import PromptWindows
from shared.errors import ConflictError, InvalidRequestError
from shared.memorization.magnitude import screen
from shared.memorization.prompt_scoring import ScreeningSettings
from tests.denoisers import counted_forwards, held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from shared.catalog import Catalog
    from tests.fixtures.judging import JudgingHome

SETTINGS = ScreeningSettings(steps=1, seeds_per_prompt=2, seed=0)
PROMPTS = [f"AP chest radiograph of a {age}-year-old man" for age in (40, 50, 60)]


def waiting() -> float:
    return REGISTRY.get_sample_value("lethe_requests_waiting") or 0.0


@pytest.fixture
def library(judging_catalog: Catalog) -> ModelLibrary:
    return ModelLibrary(judging_catalog)


@pytest.mark.parametrize("verdict", ["allow", "mitigate", "block"])
def test_verdicts_are_shown_before_the_first(verdict: str) -> None:
    assert REGISTRY.get_sample_value("lethe_prompts_screened_total", {"verdict": verdict}) is not None


@pytest.fixture
def lane() -> Iterator[ComputeLane]:
    opened = ComputeLane(max_waiting=0)
    yield opened
    opened.close()


@pytest.fixture
async def screener(judging_catalog: Catalog, library: ModelLibrary, lane: ComputeLane, anyio_backend: str) -> AsyncIterator[Screener]:
    del anyio_backend
    made = Screener(library=library, windows=PromptWindows(judging_catalog), calibrations=Calibrations(judging_catalog), lane=lane)
    async with made.batcher.serving():
        yield made


async def test_screening_costs_one_conditional_forward_a_prompt_and_seed(
    screener: Screener, library: ModelLibrary, judging_home: JudgingHome
) -> None:
    model_id = judging_home.stocked.model.id
    with counted_forwards(held(library, model_id)) as seen:
        await screener.screen(model_id, PROMPTS, SETTINGS, explain=False)
        assert (seen.conditional, seen.unconditional) == (3 * 2, 2)  # the noises' own predictions, once for all requests
        await screener.screen(model_id, PROMPTS, SETTINGS, explain=False)
        await screener.screen(model_id, PROMPTS[:1], SETTINGS, explain=False)
    assert (seen.conditional, seen.unconditional) == (7 * 2, 2)


async def test_requests_that_arrive_together_share_their_forward_pass(
    screener: Screener, library: ModelLibrary, lane: ComputeLane, judging_home: JudgingHome
) -> None:
    model_id = judging_home.stocked.model.id
    alone = [(await screener.screen(model_id, [prompt], SETTINGS, explain=False)).verdicts[0].score for prompt in PROMPTS]
    together: dict[str, float] = {}

    async def ask(prompt: str) -> None:
        together[prompt] = (await screener.screen(model_id, [prompt], SETTINGS, explain=False)).verdicts[0].score

    with counted_forwards(held(library, model_id)) as seen:
        async with anyio.create_task_group() as group:
            go, before = threading.Event(), waiting()
            group.start_soon(lane.run, go.wait)
            for prompt in PROMPTS:
                group.start_soon(ask, prompt)
            with anyio.fail_after(30):
                while waiting() < before + 3:  # noqa: ASYNC110 - the batcher tells nobody
                    await anyio.sleep(0.005)
            go.set()
    assert (seen.calls, seen.conditional) == (1, 3 * 2)
    assert [together[prompt] for prompt in PROMPTS] == pytest.approx(alone, rel=1e-4)


async def test_words_of_prompts_that_arrive_together_are_told_by_one_backward_pass(
    screener: Screener, library: ModelLibrary, lane: ComputeLane, judging_home: JudgingHome
) -> None:
    model_id = judging_home.stocked.model.id
    alone = [(await screener.screen(model_id, [prompt], SETTINGS, explain=True)).verdicts[0] for prompt in PROMPTS]
    together: dict[str, Verdict] = {}

    async def ask(prompt: str, *, explain: bool) -> None:
        verdict = (await screener.screen(model_id, [prompt], SETTINGS, explain=explain)).verdicts[0]
        if explain:
            together[prompt] = verdict

    with counted_forwards(held(library, model_id)) as seen:
        async with anyio.create_task_group() as group:
            go, before = threading.Event(), waiting()
            group.start_soon(lane.run, go.wait)
            for prompt in PROMPTS:
                group.start_soon(partial(ask, prompt, explain=True))
            group.start_soon(partial(ask, PROMPTS[0], explain=False))
            with anyio.fail_after(30):
                while waiting() < before + 4:  # noqa: ASYNC110 - the batcher tells nobody
                    await anyio.sleep(0.005)
            go.set()
    # The explained ones' scores and gradients, and the score of the one that asked for no words.
    assert (seen.calls, seen.conditional) == (3, 3 * 2 + 3 * 2 + 2)
    for prompt, verdict in zip(PROMPTS, alone, strict=True):
        assert [word.text for word in together[prompt].tokens or []] == prompt.split()
        weights = [word.weight for word in verdict.tokens or []]
        assert [word.weight for word in together[prompt].tokens or []] == pytest.approx(weights, rel=1e-2, abs=1e-4)


@pytest.mark.parametrize(("seeds", "sizes"), [(1, [2]), (16, [2]), (17, [1, 1])])
async def test_pass_holds_as_many_prompts_as_its_rows_have_room_for_their_seeds(
    screener: Screener, library: ModelLibrary, judging_home: JudgingHome, monkeypatch: pytest.MonkeyPatch, seeds: int, sizes: list[int]
) -> None:
    settings = ScreeningSettings(steps=1, seeds_per_prompt=seeds, seed=0)
    key = calibration_key(held(library, judging_home.stocked.model.id), settings, ["noise_magnitude"])
    calibration = Calibration(judging_home.calibration.model_copy(update={"key": key}), [0.1])
    monkeypatch.setattr(Calibrations, "in_force", lambda *_: calibration)
    batches: list[int] = []
    monkeypatch.setattr("services.detector.screening.BATCH", mock.Mock(observe=batches.append))
    await screener.screen(judging_home.stocked.model.id, PROMPTS[:2], settings, explain=False)
    assert batches == sizes


@pytest.mark.parametrize("explain", [False, True])
async def test_screening_that_was_admitted_is_not_refused_when_the_lane_fills(
    screener: Screener, lane: ComputeLane, judging_home: JudgingHome, monkeypatch: pytest.MonkeyPatch, explain: bool
) -> None:
    run = lane.run

    async def run_when_full(work: Any, **words: Any) -> Any:
        go = threading.Event()
        filling = asyncio.create_task(run(go.wait))
        await asyncio.sleep(0)
        assert lane.is_saturated
        running = asyncio.create_task(run(work, **words))
        await asyncio.sleep(0)
        go.set()
        await filling
        return await running

    monkeypatch.setattr(lane, "run", run_when_full)
    screening = await screener.screen(judging_home.stocked.model.id, PROMPTS[:1], SETTINGS, explain=explain)
    assert (screening.verdicts[0].tokens is not None) == explain


async def test_prompt_without_a_finite_score_fails_no_other_in_its_pass(
    screener: Screener, lane: ComputeLane, judging_home: JudgingHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_id = judging_home.stocked.model.id
    expected = (await screener.screen(model_id, PROMPTS[1:2], SETTINGS, explain=False)).verdicts[0].score
    sizes: list[int] = []

    def screened(*told: Any, **how: Any) -> Any:
        magnitudes_PST = screen(*told, **how)
        sizes.append(len(magnitudes_PST))
        magnitudes_PST[0] = float("nan")
        return magnitudes_PST

    monkeypatch.setattr("services.detector.screening.screen", screened)
    go, before = threading.Event(), waiting()
    holding = asyncio.create_task(lane.run(go.wait))
    asked = [asyncio.create_task(screener.screen(model_id, [prompt], SETTINGS, explain=False)) for prompt in PROMPTS[:2]]
    with anyio.fail_after(30):
        while waiting() < before + 2:  # noqa: ASYNC110 - the batcher tells nobody
            await anyio.sleep(0.005)
    go.set()
    outcomes = await asyncio.gather(holding, *asked, return_exceptions=True)
    refused = {isinstance(outcome, ConflictError): outcome for outcome in outcomes[1:]}
    assert sizes == [2]
    assert "no finite number" in str(refused[True])
    assert refused[False].verdicts[0].score == pytest.approx(expected, rel=1e-4)


async def test_words_are_told_only_when_asked_for(screener: Screener, judging_home: JudgingHome) -> None:
    model_id = judging_home.stocked.model.id
    told = (await screener.screen(model_id, PROMPTS[:2], SETTINGS, explain=True)).verdicts
    assert [[word.text for word in verdict.tokens or []] for verdict in told] == [prompt.split() for prompt in PROMPTS[:2]]
    assert (await screener.screen(model_id, PROMPTS[:1], SETTINGS, explain=False)).verdicts[0].tokens is None


async def test_too_long_prompt_is_named_by_its_place_in_the_request(screener: Screener, judging_home: JudgingHome) -> None:
    with pytest.raises(InvalidRequestError, match="64") as caught:
        await screener.screen(judging_home.stocked.model.id, [PROMPTS[0], "edema " * 90, PROMPTS[1]], SETTINGS, explain=False)
    assert caught.value.field == "prompts.1"


async def test_calibration_of_other_settings_is_refused(
    screener: Screener, judging_home: JudgingHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = judging_home.calibration.model_copy(update={"key": "0" * 64})
    monkeypatch.setattr(Calibrations, "in_force", lambda *_: Calibration(calibration, [0.1]))
    with pytest.raises(ConflictError, match="calibrate anew"):
        await screener.screen(judging_home.stocked.model.id, PROMPTS[:1], SETTINGS, explain=False)


@pytest.mark.parametrize(
    ("score", "decision", "p_value", "reason"),
    [
        (0.5, "mitigate", 2 / 5, "above the threshold 0.5, which at most 25 % of control prompts exceed"),
        (0.9, "mitigate", 1 / 5, "The score 0.9 is above"),
        (0.49, "allow", 2 / 5, "below the threshold 0.5; about 40 % of control prompts score as high"),
    ],
)
def test_verdict_follows_from_score_and_threshold(
    shared_judging_home: Any, score: float, decision: str, p_value: float, reason: str
) -> None:
    manifest = shared_judging_home.calibration.model_copy(update={"threshold": 0.5, "false_positive_rate": 0.25})
    verdict = judge(score, Calibration(manifest, [0.1, 0.2, 0.3, 0.6]), None)
    assert (verdict.decision, verdict.p_value, verdict.threshold) == (decision, pytest.approx(p_value), 0.5)
    assert reason in verdict.reasons[0]
