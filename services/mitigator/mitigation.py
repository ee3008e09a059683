"""Mitigated generation: draw, let the detector judge, change the plan, draw again; release what is safe, refuse the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from services.mitigator.embedding_optimisation import EmbeddingOptimisation
from services.mitigator.guidance_timing import GuidanceTiming, TimingParameters
from services.mitigator.prompt_generalisation import GeneralisationParameters, PromptGeneralisation
from services.mitigator.strategy import Plan, Strategy, Workbench
from shared.diffusion.generation import batch_size, draw_images
from shared.diffusion.model import Model
from shared.diffusion.noise import image_seed
from shared.diffusion.schedulers import SchedulerName
from shared.errors import MitigationInsufficientError
from shared.memorization.magnitude import UnconditionalCache, screening_seeds

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


def mitigate(
    order: Order,
    ladder: Ladder,
    model: Model,
    judge: Judge,
    cache: UnconditionalCache,
    check_wanted: Callable[[], None] = lambda: None,
) -> list[SafeImage]:
    """Draw one prompt's images by the first composition that makes each of them safe and faithful.

    An image that no composition makes safe, or that is safe only without what was asked for, refuses the whole order with
    MitigationInsufficientError and the evidence of every image. Cost: 2·steps forwards an image and plan drawn, the plain one
    included, besides the strategies' own and one screening of each plan. `check_wanted` is asked before each plan and raises to stop.
    """
    screening = judge.screen(order.model_id, order.prompt)
    bench = Workbench(
        model=model,
        cache=cache,
        threshold=screening.threshold,
        target=screening.target,
        guidance_scale=order.guidance_scale,
        screening_seeds=screening_seeds(0, screening.seeds_per_prompt),
        screening_steps=screening.steps,
    )
    seeds = [image_seed(order.seed, j) for j in range(order.images)]
    plain = bench.plain(order.prompt)
    before = _drawn(order, plain, seeds, model, judge)
    candidates: list[list[_Candidate]] = [[] for _ in seeds]
    open_rows = list(range(len(seeds)))
    for plan in _plans(ladder, plain, bench):
        check_wanted()
        if plan is plain:
            score, drawn = screening.score, [before[row] for row in open_rows]
        else:
            score, drawn = bench.applied_score(plan), _drawn(order, plan, [seeds[row] for row in open_rows], model, judge)
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


def _plans(ladder: Ladder, plain: Plan, bench: Workbench) -> Iterator[Plan]:
    """The ladder's plans, each made when it is its turn; one that changes nothing of an earlier one is left out."""
    known: dict[tuple[Strategy, ...], Plan] = {(): plain}
    given: set[Plan] = set()
    for composition in ladder:
        plan = _planned(composition, known, bench)
        if plan not in given:
            given.add(plan)
            yield plan


def _planned(composition: tuple[Strategy, ...], plans: dict[tuple[Strategy, ...], Plan], bench: Workbench) -> Plan:
    """The plan of a composition, made from that of its beginning; what two compositions share is planned once."""
    if composition not in plans:
        plans[composition] = composition[-1].apply(_planned(composition[:-1], plans, bench), bench)
    return plans[composition]


def _drawn(order: Order, plan: Plan, seeds: Sequence[int], model: Model, judge: Judge) -> list[tuple[NDArray[np.uint8], ImageVerdict]]:
    """The plan's images with the detector's verdicts, judged against what the caller asked for, not what the plan made of it."""
    size = batch_size(model)
    batches = []
    for start in range(0, len(seeds), size):
        rows = seeds[start : start + size]
        conditioning = plan.conditioning.repeat(len(rows))
        batches.append(draw_images(model, conditioning, rows, steps=order.steps, guidance=plan.make_guidance(), scheduler=order.scheduler))
    images_NHW = np.concatenate(batches)
    return list(zip(images_NHW, judge.match(order.dataset, images_NHW, [order.prompt] * len(seeds)), strict=True))


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
