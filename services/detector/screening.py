"""Screening: how strongly a model follows a prompt at its first step, judged against prompts that it cannot have memorized.

P prompts, S seeds, T steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from prometheus_client import Counter, Histogram

from services.detector.calibration import Calibration, Calibrations, Signal, calibration_key
from shared.diffusion.batching import MicroBatcher
from shared.diffusion.lane import ComputeLane
from shared.diffusion.library import ModelLibrary
from shared.diffusion.prompt_windows import PromptWindows
from shared.errors import ConflictError
from shared.memorization.attribution import WordWeight, attribute
from shared.memorization.magnitude import FORWARD_BATCH, UnconditionalCache, prompt_scores, screen
from shared.memorization.prompt_scoring import ScreeningSettings, require_finite
from shared.memorization.statistics import empirical_p_values

Decision = Literal["allow", "mitigate", "block"]

SIGNALS: Final[tuple[Signal, ...]] = ("noise_magnitude",)

ROWS_AT_ONCE: Final = FORWARD_BATCH  # prompts times seeds that are screened in one pass

SCREENED = Counter("lethe_prompts_screened_total", "Prompts screened.", ["verdict"])
# All verdicts from the start: a share of what was never told is none to Prometheus, where it should be zero.
for _verdict in get_args(Decision):
    SCREENED.labels(verdict=_verdict)
SCORE = Histogram(
    "lethe_memorization_score",
    "Scores of screened prompts: norms of a noise difference, which grow with the size of the model's latents.",
    ["detector"],
    buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 20),
)
BATCH = Histogram("lethe_screening_batch_size", "Prompts screened in one pass.", buckets=(1, 2, 4, 8, 16, 32, 64))


@dataclass(frozen=True)
class Verdict:
    """What the screening says of one prompt."""

    decision: Decision
    score: float
    p_value: float
    threshold: float
    reasons: list[str]
    tokens: list[WordWeight] | None


@dataclass(frozen=True)
class Screening:
    """The verdicts on a request's prompts, and the calibration that they rest on."""

    verdicts: list[Verdict]
    calibration: Calibration


@dataclass(frozen=True)
class _Batch:
    """What prompts must have in common to be screened in one pass."""

    model: str
    settings: ScreeningSettings
    key: str
    explain: bool


@dataclass(frozen=True)
class _Seen:
    """What a pass tells of one prompt; words where they were asked for."""

    score: float
    words: list[WordWeight] | None


class Screener:
    """Screens prompts with the models of a library, in micro-batches on the lane."""

    def __init__(self, *, library: ModelLibrary, windows: PromptWindows, calibrations: Calibrations, lane: ComputeLane) -> None:
        self._library = library
        self._windows = windows
        self._calibrations = calibrations
        self._lane = lane
        self._cache = UnconditionalCache()
        self.batcher: MicroBatcher[_Batch, str, _Seen] = MicroBatcher(self._work, turn=lane.turn, max_batch=_prompts_at_once)

    async def screen(self, model_id: str, prompts: Sequence[str], settings: ScreeningSettings, *, explain: bool) -> Screening:
        """The verdict on each prompt; ConflictError without a calibration, InvalidRequestError for a prompt that is too long."""
        calibration = await asyncio.to_thread(self._admitted, model_id, prompts, settings)
        seen = await self.batcher.submit(_Batch(model_id, settings, calibration.manifest.key, explain), prompts)
        require_finite([each.score for each in seen])  # here, since a prompt of another request is none of this one's concern
        return Screening([judge(each.score, calibration, each.words) for each in seen], calibration)

    def _admitted(self, model_id: str, prompts: Sequence[str], settings: ScreeningSettings) -> Calibration:
        """The calibration in force, after a look at the prompts: what cannot be screened waits for nothing and fails no other."""
        calibration = self._calibrations.in_force(model_id, settings)
        self._windows.require_fit(model_id, prompts)
        return calibration

    async def _work(self, batch: _Batch, prompts: list[str]) -> list[_Seen]:
        """One micro-batch, on the lane."""
        BATCH.observe(len(prompts))
        return await self._lane.run(lambda: self._look(batch, prompts), admitted=True)

    def _look(self, batch: _Batch, prompts: list[str]) -> list[_Seen]:
        """The score of each prompt, and the words' shares of it where they were asked for."""
        settings = batch.settings
        with self._library.use(batch.model) as model:
            if calibration_key(model, settings, SIGNALS) != batch.key:
                raise ConflictError(
                    f"The calibration of the model {batch.model} was made in another way than prompts are screened; calibrate anew."
                )
            magnitudes_PST = screen(model, model.encode(prompts), settings.seeds, steps=settings.steps, cache=self._cache)
            scores: list[float] = prompt_scores(magnitudes_PST).tolist()
            words: Sequence[list[WordWeight] | None] = [None] * len(prompts)
            if batch.explain:
                words = attribute(model, prompts, settings.seeds, self._cache)
            return [_Seen(*each) for each in zip(scores, words, strict=True)]


def _prompts_at_once(batch: _Batch) -> int:
    """As many prompts as the rows of one forward pass hold: those of the next pass are heard and answered meanwhile."""
    return max(1, ROWS_AT_ONCE // batch.settings.seeds_per_prompt)


def judge(score: float, calibration: Calibration, tokens: list[WordWeight] | None) -> Verdict:
    """The verdict on a score: `mitigate` from the threshold on, `allow` below; nothing is blocked before an image was judged."""
    manifest = calibration.manifest
    p_value = float(empirical_p_values([score], calibration.control_scores)[0])
    decision: Decision = "mitigate" if score >= manifest.threshold else "allow"
    compared = f"The score {score:.3g} is {'above' if decision == 'mitigate' else 'below'} the threshold {manifest.threshold:.3g}"
    if decision == "mitigate":
        reason = f"{compared}, which at most {_percent(manifest.false_positive_rate)} of control prompts exceed."
    else:
        reason = f"{compared}; about {_percent(p_value)} of control prompts score as high."
    SCREENED.labels(verdict=decision).inc()
    SCORE.labels(detector="noise_magnitude").observe(score)
    return Verdict(decision, score, p_value, manifest.threshold, [reason], tokens)


def _percent(share: float) -> str:
    """A share in percent with two digits that count, but none after the point where there are more before it."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
