"""Mitigated generation: draw, let the detector judge, change the plan, draw again; release what is safe, refuse the rest."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.mitigator.embedding_optimisation import EmbeddingOptimisation
from services.mitigator.guidance_timing import GuidanceTiming, TimingParameters
from services.mitigator.prompt_generalisation import GeneralisationParameters, PromptGeneralisation
from services.mitigator.strategy import Plan, Strategy, Workbench
from shared.diffusion.model import Model
from shared.diffusion.noise import image_seed
from shared.diffusion.schedulers import SchedulerName
from shared.errors import MitigationInsufficientError
from shared.memorization.magnitude import UnconditionalCache, screening_seeds

ResultT = TypeVar("ResultT")

Ladder = Sequence[tuple[Strategy, ...]]
"""Compositions of strategies in the order in which they are tried; the empty one draws the prompt as it is."""

FAITHFUL: Final = 0.8  # fidelity from which on a safe image is released without trying further
LOST: Final = 0.25  # below, the image shows next to nothing of what was asked, and is not released
PATIENT_VERDICTS: Final = frozenset({"copy", "same_patient"})


@dataclass(frozen=True)
class Screening:
    """The detector's answer to a prompt: its score, the calibrated threshold, and what an ordinary prompt scores."""

    score: float
    threshold: float
    target: float
    calibration: str
    steps: int
    seeds_per_prompt: int


@dataclass(frozen=True)
class ImageVerdict:
    """The detector's answer to an image: its nearest training film, and how much it shows of what was asked."""

    similarity: float
    similarity_threshold: float
    verdict: str
    fidelity: float


class Judge(Protocol):
    """The detector, as the mitigator asks it; raises ScreenerUnavailableError when it does not answer."""

    def screen(self, model_id: str, prompt: str) -> Screening:
        """The verdict on a prompt."""
        ...

    def match(self, dataset: str, images_NHW: NDArray[np.uint8], prompts: Sequence[str]) -> list[ImageVerdict]:
        """The verdict on each image against all training films, and its agreement with its prompt."""
        ...


@dataclass(frozen=True)
class Order:
    """One prompt to be drawn; image j has seed + j."""

    model_id: str
    dataset: str
    prompt: str
    images: int
    steps: int
    guidance_scale: float
    scheduler: SchedulerName
    seed: int


class Workshop(Protocol):
    """What a request works with; whoever waits for it may be cancelled there."""

    async def compute(self, model_id: str, work: Callable[[Model], ResultT]) -> ResultT:
        """What `work` makes of the model."""
        ...

    async def draw(self, order: Order, plan: Plan, seeds: Sequence[int]) -> NDArray[np.uint8]:
        """The plan's images, one a seed."""
        ...

    async def ask(self, question: Callable[[Judge], ResultT]) -> ResultT:
        """What the judge answers."""
        ...


@dataclass(frozen=True)
class Evidence:
    """What was changed for one image, and what the detector says of it before and after."""

    strategy: str
    changes: tuple[str, ...]
    score_before: float
    score_after: float
    threshold: float
    similarity_before: float
    similarity_after: float
    similarity_threshold: float
    verdict_before: str
    verdict_after: str
    fidelity_before: float
    prompt_fidelity: float
    forwards: int
    calibration: str

    @property
    def is_safe(self) -> bool:
        """Score and similarity are under their thresholds, and no patient is recognised."""
        under = self.score_after < self.threshold and self.similarity_after < self.similarity_threshold
        return under and self.verdict_after not in PATIENT_VERDICTS

    def as_json(self) -> dict[str, Any]:
        """For the caller who sent the prompt."""
        return asdict(self) | {"changes": list(self.changes)}

    def without_words(self) -> dict[str, Any]:
        """For a problem, which never quotes a prompt."""
        return {name: value for name, value in self.as_json().items() if name != "changes"}


@dataclass(frozen=True)
class SafeImage:
    """A released image with its evidence."""

    seed: int
    pixels_HW: NDArray[np.uint8]
    evidence: Evidence


@dataclass(frozen=True)
class _Candidate:
    pixels_HW: NDArray[np.uint8]
    evidence: Evidence


def automatic_ladder() -> Ladder:
    """Least change first: the prompt as it is, fewer words of it, only what is to be seen, then later guidance, another embedding, both."""
    fewer: Strategy = PromptGeneralisation()
    barest: Strategy = PromptGeneralisation(GeneralisationParameters(everything=True))
    dynamic: Strategy = GuidanceTiming(TimingParameters(variant="dynamic"))
    embedding: Strategy = EmbeddingOptimisation()
    return ((), (fewer,), (barest,), (barest, dynamic), (barest, embedding), (barest, embedding, dynamic))


async def mitigate(order: Order, ladder: Ladder, workshop: Workshop, cache: UnconditionalCache) -> list[SafeImage]:
    """Draw one prompt's images by the first composition that makes each of them safe and faithful.

    An image that no composition makes safe, or that is safe only without what was asked for, refuses the whole order with
    MitigationInsufficientError and the evidence of every image. Cost: 2·steps forwards an image and plan drawn, the plain one
    included, besides the strategies' own and one screening of each plan.
    """
    screening = await workshop.ask(lambda judge: judge.screen(order.model_id, order.prompt))
    place = _Place(order, screening, workshop, cache)
    seeds = [image_seed(order.seed, j) for j in range(order.images)]
    plain = await place.compute(lambda bench: bench.plain(order.prompt))
    before = await _drawn(order, plain, seeds, workshop)
    candidates: list[list[_Candidate]] = [[] for _ in seeds]
    open_rows = list(range(len(seeds)))
    async with aclosing(_plans(ladder, plain, place)) as plans:
        async for plan in plans:
            if plan is plain:
                score, drawn = screening.score, [before[row] for row in open_rows]
            else:
                score = await place.applied_score(plan)
                drawn = await _drawn(order, plan, [seeds[row] for row in open_rows], workshop)
            for row, (pixels, verdict) in zip(open_rows, drawn, strict=True):
                evidence = _evidence(screening, plan, score, before[row][1], verdict, _cost(order, plan))
                candidates[row].append(_Candidate(pixels, evidence))
            open_rows = [row for row in open_rows if not _is_done(candidates[row][-1].evidence)]
            if not open_rows:
                break
    chosen = [max(tried, key=_preference) for tried in candidates]
    if not all(c.evidence.is_safe and c.evidence.prompt_fidelity >= LOST for c in chosen):
        message = "No strategy makes every image safe with what was asked still in it; try another seed or a more general prompt."
        raise MitigationInsufficientError(message, evidence=_refused(seeds, chosen))
    return [SafeImage(seed, c.pixels_HW, c.evidence) for seed, c in zip(seeds, chosen, strict=True)]


@dataclass(frozen=True)
class _Place:
    """A request's place in the workshop: the bench is laid out on the model each time that it is its turn."""

    order: Order
    screening: Screening
    workshop: Workshop
    cache: UnconditionalCache

    async def compute(self, work: Callable[[Workbench], ResultT]) -> ResultT:
        """What `work` makes on the bench."""
        return await self.workshop.compute(self.order.model_id, lambda model: work(self._laid_out(model)))

    async def applied_score(self, plan: Plan) -> float:
        """How far the plan lets the prompt pull."""
        return await self.compute(lambda bench: bench.applied_score(plan))

    def _laid_out(self, model: Model) -> Workbench:
        return Workbench(
            model=model,
            cache=self.cache,
            threshold=self.screening.threshold,
            target=self.screening.target,
            guidance_scale=self.order.guidance_scale,
            screening_seeds=screening_seeds(0, self.screening.seeds_per_prompt),
            screening_steps=self.screening.steps,
        )


async def _plans(ladder: Ladder, plain: Plan, place: _Place) -> AsyncGenerator[Plan]:
    """The ladder's plans, each made when it is its turn; one that changes nothing of an earlier one is left out."""
    known: dict[tuple[Strategy, ...], Plan] = {(): plain}
    given: set[Plan] = set()
    for composition in ladder:
        plan = await _planned(composition, known, place)
        if plan not in given:
            given.add(plan)
            yield plan


async def _planned(composition: tuple[Strategy, ...], plans: dict[tuple[Strategy, ...], Plan], place: _Place) -> Plan:
    """The plan of a composition, made from that of its beginning; what two compositions share is planned once."""
    if composition not in plans:
        beginning = await _planned(composition[:-1], plans, place)
        plans[composition] = await place.compute(lambda bench: composition[-1].apply(beginning, bench))
    return plans[composition]


async def _drawn(order: Order, plan: Plan, seeds: Sequence[int], workshop: Workshop) -> list[tuple[NDArray[np.uint8], ImageVerdict]]:
    """The plan's images with the detector's verdicts, judged against what the caller asked for, not what the plan made of it."""
    images_NHW = await workshop.draw(order, plan, seeds)
    prompts = [order.prompt] * len(seeds)
    return list(zip(images_NHW, await workshop.ask(lambda judge: judge.match(order.dataset, images_NHW, prompts)), strict=True))


def _evidence(screening: Screening, plan: Plan, score: float, before: ImageVerdict, after: ImageVerdict, forwards: int) -> Evidence:
    return Evidence(
        strategy="+".join(plan.strategies) or "none",
        changes=plan.changes,
        score_before=screening.score,
        score_after=score,
        threshold=screening.threshold,
        similarity_before=before.similarity,
        similarity_after=after.similarity,
        similarity_threshold=after.similarity_threshold,
        verdict_before=before.verdict,
        verdict_after=after.verdict,
        fidelity_before=before.fidelity,
        prompt_fidelity=after.fidelity,
        forwards=forwards,
        calibration=screening.calibration,
    )


def _refused(seeds: Sequence[int], chosen: Sequence[_Candidate]) -> list[dict[str, Any]]:
    """What a problem tells of each image."""
    return [{"seed": seed, **c.evidence.without_words()} for seed, c in zip(seeds, chosen, strict=True)]


def _cost(order: Order, plan: Plan) -> int:
    """UNet rows for one image of this plan: planning, and two a step, or one where the unconditional half cancels."""
    return plan.forwards + order.steps * (2 if plan.make_guidance().needs_unconditional else 1)


def _is_done(evidence: Evidence) -> bool:
    return evidence.is_safe and evidence.prompt_fidelity >= FAITHFUL


def _preference(candidate: _Candidate) -> tuple[bool, float, float]:
    """Safe before unsafe, then the more faithful, then the less similar."""
    evidence = candidate.evidence
    return evidence.is_safe, evidence.prompt_fidelity, -evidence.similarity_after
