"""Prompt generalisation gives up the fewest words that pass, never what the picture is to show."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.mitigator.prompt_generalisation import GeneralisationParameters, PromptGeneralisation, lost_words, negotiable_units
from services.mitigator.strategy import Plan, Workbench
from shared.diffusion.model import Model
from shared.imaging.phantom import FINDINGS, SIDED
from shared.imaging.prompts import compose_impression, generalise, parse_prompt
from tests.denoisers import PROMPTS, counted_forwards
from tests.services.mitigator.doubles import DifferentiableMemorizer, workbench

CANARY = PROMPTS[0]
WITHOUT_EXAM = "Chest X-ray, PA view, 61-year-old woman: large left pleural effusion."
WITHOUT_AGE = "Chest X-ray, PA view, woman aged 60-69: large left pleural effusion. Exam 48213."
WITHOUT_SEX = "Chest X-ray, PA view, 61-year-old patient: large left pleural effusion. Exam 48213."


def memorizing(tiny: Model, *triggers: str) -> Any:
    """A model that memorized one image for each of these prompts."""
    return DifferentiableMemorizer.of(tiny, mean=0.3, deviation=0.5, triggers=triggers)


def generalised(bench: Workbench, prompt: str = CANARY, *, wording: bool = True) -> Plan:
    """The prompt's plan after the strategy."""
    return PromptGeneralisation(GeneralisationParameters(wording=wording)).apply(bench.plain(prompt), bench)


def test_word_that_triggers_the_copy_is_given_up_and_nothing_else(tiny: Model) -> None:
    bench = workbench(memorizing(tiny, CANARY, WITHOUT_AGE, WITHOUT_SEX), threshold=1.0)
    assert float(bench.scores(bench.plain(CANARY).conditioning)[0]) > bench.threshold
    plan = generalised(bench)
    assert plan.prompt == WITHOUT_EXAM
    assert plan.strategies == ("prompt_generalisation",)
    assert plan.changes == ("gave up: Exam", "gave up: 48213")
    assert float(bench.scores(plan.conditioning)[0]) < bench.threshold


@pytest.mark.parametrize(("left", "word"), [(WITHOUT_AGE, "61-year-old"), (WITHOUT_SEX, "woman")])
def test_any_single_kind_that_suffices_is_found(tiny: Model, left: str, word: str) -> None:
    single = {WITHOUT_EXAM, WITHOUT_AGE, WITHOUT_SEX} - {left}
    plan = generalised(workbench(memorizing(tiny, CANARY, *sorted(single)), threshold=1.0))
    assert plan.prompt == left
    assert plan.changes == (f"gave up: {word}",)


def test_two_kinds_are_given_up_only_where_no_single_one_suffices(tiny: Model) -> None:
    plan = generalised(workbench(memorizing(tiny, CANARY, WITHOUT_EXAM, WITHOUT_AGE, WITHOUT_SEX), threshold=1.0))
    units = negotiable_units(CANARY)
    assert plan.prompt in {generalise(CANARY, a | b) for a, b in product(units, units) if a is not b}
    assert parse_prompt(plan.prompt) == parse_prompt(CANARY)


def test_nothing_passes_and_everything_negotiable_is_given_up(tiny: Model) -> None:
    plan = generalised(workbench(tiny, threshold=0.0))
    assert plan.prompt == "PA: left pleural effusion."
    assert plan.changes == tuple(
        f"gave up: {word}" for word in ("Chest", "X-ray", "view", "61-year-old", "woman", "large", "Exam", "48213")
    )
    assert parse_prompt(plan.prompt) == parse_prompt(CANARY)
    assert negotiable_units(plan.prompt) == []


def test_everything_goes_at_once_where_that_is_asked_for(tiny: Model) -> None:
    bench = workbench(memorizing(tiny, CANARY), threshold=1.0)
    plan = PromptGeneralisation(GeneralisationParameters(everything=True)).apply(bench.plain(CANARY), bench)
    assert plan.prompt == "Chest X-ray, PA view, patient: large left pleural effusion."
    assert plan.forwards == bench.screening_cost(1)  # a single candidate, so nothing is attributed


def test_wording_stays_where_it_may_not_go(tiny: Model) -> None:
    plan = generalised(workbench(tiny, threshold=0.0), wording=False)
    assert plan.prompt == "Chest X-ray, PA view, patient: large left pleural effusion."


def test_prompt_without_anything_to_give_up_keeps_its_plan_and_costs_nothing(tiny: Model) -> None:
    bench = workbench(tiny, threshold=0.0)
    plain = bench.plain("PA: left  pleural effusion")
    with counted_forwards(tiny) as seen:
        assert PromptGeneralisation().apply(plain, bench) is plain
    assert (seen.conditional, seen.unconditional) == (0, 0)


@pytest.mark.parametrize("prompt", ["", " ", "___", "..."])
def test_prompt_of_nothing_ends(tiny: Model, prompt: str) -> None:
    bench = workbench(tiny, threshold=0.0)
    plain = bench.plain(prompt)
    assert PromptGeneralisation().apply(plain, bench) is plain


@pytest.mark.parametrize(("threshold", "candidates"), [(1e9, 3), (0.0, 9)])
def test_forwards_count_every_row_and_a_backward_pass_as_two(tiny: Model, threshold: float, candidates: int) -> None:
    bench = workbench(tiny, threshold=threshold)
    with counted_forwards(tiny) as seen:
        plan = generalised(bench)
    seeds = len(bench.screening_seeds)
    assert seen.unconditional == seeds  # the cold cache, paid once
    assert seen.conditional == seeds * (1 + candidates)
    assert plan.forwards == seen.conditional + 2 * seeds


def test_single_kind_needs_no_attribution(tiny: Model) -> None:
    bench = workbench(tiny)
    bench.cache.get(tiny, bench.screening_seeds)
    with counted_forwards(tiny) as seen:
        plan = generalised(bench, "Chest X-ray, PA view: no finding. Exam 48213.")
    assert plan.prompt == "Chest X-ray, PA view: no finding."
    assert plan.forwards == seen.conditional == len(bench.screening_seeds)


def test_screening_of_more_steps_costs_both_halves_from_the_second_on(tiny: Model) -> None:
    one = workbench(tiny)
    bench = Workbench(tiny, one.cache, 1e9, 1.0, 3.0, one.screening_seeds, screening_steps=2)
    bench.cache.get(tiny, bench.screening_seeds)
    with counted_forwards(tiny) as seen:
        plan = generalised(bench, "Chest X-ray, PA view: no finding. Exam 48213.")
    assert plan.forwards == seen.conditional + seen.unconditional == 3 * len(bench.screening_seeds)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_findings_sides_and_view_stay_in_every_candidate(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(FINDINGS)), max_size=3, unique=True))
    findings = {name: data.draw(st.sampled_from(["left", "right"])) if name in SIDED else None for name in names}
    prompt = compose_impression(
        view=data.draw(st.sampled_from(["AP", "PA", "lateral"])),
        sex=data.draw(st.sampled_from(["Male", "Female"])),
        age=data.draw(st.integers(18, 90)),
        findings=findings,
        normal=not findings,
        exam=data.draw(st.integers(10_000, 99_999)),
        rng=np.random.default_rng(data.draw(st.integers(0, 1000))),
    )
    rounds = list(PromptGeneralisation()._rounds(prompt, negotiable_units(prompt)))
    candidates = [candidate for candidates in rounds for candidate in candidates]
    assert 1 <= len(rounds) <= 5
    assert len(candidates) == len(set(candidates)) <= 9
    assert {parse_prompt(candidate) for candidate in candidates} == {parse_prompt(prompt)}
    assert negotiable_units(candidates[-1]) == []


def test_rounds_give_up_one_kind_more_each() -> None:
    units = negotiable_units(CANARY)
    rounds = list(PromptGeneralisation()._rounds(CANARY, units))
    assert [len(candidates) for candidates in rounds] == [3, 3, 1, 1, 1]
    assert set(rounds[0]) == {WITHOUT_EXAM, WITHOUT_AGE, WITHOUT_SEX}
    pairs = {generalise(CANARY, a | b) for a, b in product(units, units) if a is not b}
    assert set(rounds[1]) == pairs


def test_lost_words_counts_each_word_as_often_as_it_went() -> None:
    assert lost_words("left effusion, Left edema. Exam 1234", "left effusion, edema") == ["Left", "Exam", "1234"]
    assert lost_words("a b", "b A") == []
