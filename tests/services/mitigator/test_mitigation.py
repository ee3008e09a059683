"""The ladder: the first composition that makes each image safe and faithful, or a refusal with evidence and without words."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from services.mitigator import mitigation
from services.mitigator.mitigation import FAITHFUL, LOST, Order, SafeImage, automatic_ladder, mitigate
from services.mitigator.prompt_generalisation import PromptGeneralisation
from shared.diffusion.generation import generate_images
from shared.diffusion.guidance import ClassifierFreeGuidance
from shared.diffusion.model import Model
from shared.errors import MitigationInsufficientError, ScreenerUnavailableError
from shared.memorization.magnitude import UnconditionalCache
from tests.denoisers import PROMPTS, counted_forwards
from tests.services.mitigator.doubles import COPY, GOOD, InlineWorkshop, NamedStrategy, ScriptedJudge, verdict

ORDER = Order(model_id="mdl_test", dataset="ds_test", prompt=PROMPTS[0], images=1, steps=2, guidance_scale=3.0, scheduler="ddim", seed=7)
SECRET = "secret words"


def released(
    tiny: Model, judge: ScriptedJudge, ladder: Sequence[tuple[Any, ...]], *, images: int = 1, order: Order = ORDER
) -> list[SafeImage]:
    """What the order gets."""
    return asyncio.run(mitigate(replace(order, images=images), ladder, InlineWorkshop(tiny, judge), UnconditionalCache()))


def strategies(images: Sequence[SafeImage]) -> list[str]:
    """Which strategies made which image."""
    return [image.evidence.strategy for image in images]


def test_safe_plain_image_is_released_as_it_is(tiny: Model) -> None:
    judge = ScriptedJudge([[GOOD, GOOD]])
    images = released(tiny, judge, automatic_ladder(), images=2)
    plain = generate_images(tiny, PROMPTS[:1], images_per_prompt=2, seed=7, steps=2, guidance=ClassifierFreeGuidance(3.0))
    assert np.array_equal(np.stack([image.pixels_HW for image in images]), plain)
    assert [image.seed for image in images] == [7, 8]
    evidence = images[0].evidence
    assert (evidence.strategy, evidence.changes, evidence.forwards) == ("none", (), 4)
    assert (evidence.score_before, evidence.score_after, evidence.threshold) == (1.0, 1.0, 1e9)
    assert (evidence.similarity_before, evidence.similarity_after, evidence.similarity_threshold) == (0.2, 0.2, 0.8)
    assert (evidence.verdict_before, evidence.verdict_after, evidence.prompt_fidelity) == ("none", "none", 1.0)
    assert evidence.calibration == "cal_test"


def test_guidance_of_one_costs_one_forward_a_step(tiny: Model) -> None:
    with counted_forwards(tiny) as seen:
        (image,) = released(tiny, ScriptedJudge([[GOOD]]), ((),), order=replace(ORDER, guidance_scale=1.0))
    assert image.evidence.forwards == seen.conditional == 2
    assert seen.unconditional == 0


def test_copy_gets_the_first_composition_that_is_safe_and_faithful(tiny: Model) -> None:
    a, b, c = NamedStrategy("a", forwards=5), NamedStrategy("b"), NamedStrategy("c")
    judge = ScriptedJudge([[COPY], [COPY], [verdict(FAITHFUL)]])
    (image,) = released(tiny, judge, ((), (a,), (a, b), (a, c)))
    assert image.evidence.strategy == "a+b"
    assert image.evidence.changes == ("gave up: a-word", "gave up: b-word")
    assert image.evidence.forwards == 5 + 4
    assert (image.evidence.verdict_before, image.evidence.similarity_before) == ("copy", 0.95)
    assert (image.evidence.verdict_after, image.evidence.similarity_after, image.evidence.prompt_fidelity) == ("none", 0.2, FAITHFUL)
    assert (a.applied, b.applied, c.applied) == (1, 1, 0)  # shared beginnings are planned once, later ones never


def test_safe_but_unfaithful_image_tries_on_and_the_most_faithful_is_taken(tiny: Model) -> None:
    ladder = ((), *((NamedStrategy(name),) for name in "abc"))
    judge = ScriptedJudge([[COPY], [verdict(0.5)], [verdict(0.7)], [verdict(0.6)]])
    (image,) = released(tiny, judge, ladder)
    assert (image.evidence.strategy, image.evidence.prompt_fidelity) == ("b", 0.7)
    assert len(judge.asked) == 4


def test_equally_faithful_images_are_told_apart_by_similarity(tiny: Model) -> None:
    ladder = ((), *((NamedStrategy(name),) for name in "ab"))
    judge = ScriptedJudge([[COPY], [verdict(0.5, similarity=0.4)], [verdict(0.5, similarity=0.3)]])
    assert strategies(released(tiny, judge, ladder)) == ["b"]


@pytest.mark.parametrize(
    "unsafe",
    [
        COPY,
        verdict(1.0, word="same_patient"),
        verdict(1.0, similarity=0.8),
        verdict(1.0, similarity=math.nan),
        verdict(math.nextafter(LOST, 0)),
        verdict(math.nan),
    ],
)
def test_unsafe_or_lost_everywhere_refuses_with_evidence_without_words(tiny: Model, unsafe: mitigation.ImageVerdict) -> None:
    ladder = ((), (NamedStrategy("a"),))
    with pytest.raises(MitigationInsufficientError) as refused:
        released(tiny, ScriptedJudge([[unsafe], [unsafe]]), ladder)
    (entry,) = refused.value.evidence
    assert entry["seed"] == 7
    assert entry["verdict_after"] == unsafe.verdict
    assert "changes" not in entry
    told = str(refused.value) + json.dumps(entry)
    assert not [word for word in PROMPTS[0].split() if word.strip(".,:") in told]
    assert "a-word" not in told


def test_template_verdict_is_no_patient(tiny: Model) -> None:
    assert strategies(released(tiny, ScriptedJudge([[verdict(1.0, word="template")]]), ((),))) == ["none"]


@pytest.mark.parametrize("score", [1.0, 2.0, math.nan])
def test_image_of_a_prompt_at_or_over_the_threshold_is_not_safe(tiny: Model, score: float) -> None:
    judge = ScriptedJudge([[GOOD]], score=score, threshold=1.0)
    with pytest.raises(MitigationInsufficientError) as refused:
        released(tiny, judge, ((),))
    assert refused.value.evidence[0]["verdict_after"] == "none"


def test_score_after_is_that_of_the_plan(tiny: Model) -> None:
    quiet = NamedStrategy("quiet", first_scale=0.0)
    judge = ScriptedJudge([[GOOD], [GOOD]], score=2.0, threshold=1e-9)
    (image,) = released(tiny, judge, ((), (quiet,)))
    assert (image.evidence.score_before, image.evidence.score_after) == (2.0, 0.0)


def test_images_are_decided_one_by_one(tiny: Model) -> None:
    a, b = NamedStrategy("a"), NamedStrategy("b", prompt=PROMPTS[2])
    judge = ScriptedJudge([[GOOD, COPY, COPY], [GOOD, COPY], [GOOD]])
    with counted_forwards(tiny) as seen:
        images = released(tiny, judge, ((), (a,), (a, b)), images=3)
    assert strategies(images) == ["none", "a", "a+b"]
    assert [image.seed for image in images] == [7, 8, 9]
    last = generate_images(tiny, [PROMPTS[2]], images_per_prompt=1, seed=9, steps=2, guidance=ClassifierFreeGuidance(3.0))
    assert np.abs(images[2].pixels_HW.astype(int) - last[0]).max() <= 1  # rounding of another batch shape
    drawn, seeds = 2 * (3 + 2 + 1), 2
    assert seen.unconditional == drawn + seeds  # the cold cache
    assert seen.conditional == drawn + 2 * seeds  # two plans scored


def test_image_that_is_refused_refuses_the_whole_order(tiny: Model) -> None:
    with pytest.raises(MitigationInsufficientError) as refused:
        released(tiny, ScriptedJudge([[GOOD, COPY], [COPY]]), ((), (NamedStrategy("a"),)), images=2)
    assert [(entry["seed"], entry["verdict_after"]) for entry in refused.value.evidence] == [(7, "none"), (8, "copy")]


def test_verdicts_are_asked_against_the_prompt_as_asked(tiny: Model) -> None:
    judge = ScriptedJudge([[COPY, COPY], [GOOD, GOOD]])
    released(tiny, judge, ((), (NamedStrategy("a", prompt=PROMPTS[2]),)), images=2)
    assert judge.asked == [("ds_test", [PROMPTS[0]] * 2)] * 2


def test_strategy_that_changes_nothing_draws_nothing_again(tiny: Model) -> None:
    prompt = "PA: left pleural effusion"
    judge = ScriptedJudge([[COPY], [GOOD]])
    generalisation, other = PromptGeneralisation(), NamedStrategy("other")
    (image,) = released(tiny, judge, ((), (generalisation,), (generalisation, other)), order=replace(ORDER, prompt=prompt))
    assert image.evidence.strategy == "other"
    assert len(judge.asked) == 2


def test_named_strategy_without_anything_to_change_releases_the_plain_image(tiny: Model) -> None:
    judge = ScriptedJudge([[GOOD]])
    (image,) = released(tiny, judge, ((PromptGeneralisation(),),), order=replace(ORDER, prompt="PA: left pleural effusion"))
    assert image.evidence.strategy == "none"


def test_named_strategy_is_applied_even_where_the_plain_image_is_safe(tiny: Model) -> None:
    judge = ScriptedJudge([[GOOD], [verdict(0.9)]])
    (image,) = released(tiny, judge, ((NamedStrategy("a"),),))
    assert (image.evidence.strategy, image.evidence.fidelity_before, image.evidence.prompt_fidelity) == ("a", 1.0, 0.9)


def test_plain_image_tried_late_is_the_one_drawn_at_first(tiny: Model) -> None:
    judge = ScriptedJudge([[COPY, GOOD], [GOOD, COPY]])
    images = released(tiny, judge, ((NamedStrategy("a"),), ()), images=2)
    assert [(image.seed, image.evidence.strategy) for image in images] == [(7, "a"), (8, "none")]
    assert len(judge.asked) == 2


@pytest.mark.parametrize("away_at", [0, 1])
def test_judge_that_goes_away_releases_nothing(tiny: Model, away_at: int) -> None:
    with pytest.raises(ScreenerUnavailableError):
        released(tiny, ScriptedJudge([[COPY], [GOOD]], away_at=away_at), ((), (NamedStrategy("a"),)))


def test_automatic_ladder_begins_with_the_prompt_as_it_is_and_generalises_first() -> None:
    ladder = [tuple(strategy.name for strategy in composition) for composition in automatic_ladder()]
    assert ladder[0] == ()
    assert all(composition[0] == "prompt_generalisation" for composition in ladder[1:])
    barest = {composition[0] for composition in automatic_ladder()[2:]}
    assert ladder[-1] == ("prompt_generalisation", "embedding_optimisation", "guidance_timing")
    assert len(barest) == 1  # one object: its plan is made once
