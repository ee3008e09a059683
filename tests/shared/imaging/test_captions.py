"""Other captions for a film, made from its prompt."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from shared.imaging.captions import captions_of
from shared.imaging.clauses import read_words
from shared.imaging.phantom import make_cohort
from shared.imaging.prompts import AskedItems, compose_impression, compose_prompt, normalise_prompt, parse_prompt
from shared.imaging.sources import SourceFilm
from tests.services.trainer.films_in_memory import film

REPORTS = [
    "No pneumothorax, effusion, or edema. Cardiomegaly, unchanged. Left lung nodule and consolidation on the right.",
    "PA and lateral views. Bilateral effusions with edema but no consolidation or pneumonia; pacemaker in place.",
    "Edema. No acute findings, effusion, or pneumothorax.",
    "A moderately enlarged heart and a small left-sided pleural effusion, without pneumothorax.",
    "Left effusion edema, nodule, nodule. It is unchanged.",
    "cardiomegaly, " * 30 + "edema",
]


def findings(asked: AskedItems) -> AskedItems:
    """Without the views."""
    return frozenset(item for item in asked if item[0] == "finding")


def phantom_prompts() -> list[str]:
    """Prompts of phantom films, under both kinds of templates."""
    rng = np.random.default_rng(0)
    prompts = []
    for made in make_cohort(60, 0):
        normal = not set(made.findings) - {"Support Devices"}
        facts = {"view": made.view, "sex": made.patient.sex, "age": made.patient.age, "findings": made.findings}
        prompts.append(compose_impression(**facts, normal=normal, exam=made.accession, rng=rng))
        labelled: SourceFilm = film(0, view=made.view, labels=dict.fromkeys(made.findings, 1))
        prompts.append(compose_prompt("demographics", labelled, "ignore"))
    return prompts


@pytest.mark.parametrize("prompts", [phantom_prompts(), REPORTS], ids=["phantoms", "reports"])
def test_every_caption_asks_for_the_findings_of_the_prompt_and_nothing_else(prompts: list[str]) -> None:
    made = 0
    for prompt in prompts:
        captions, asked = captions_of(prompt, 20), parse_prompt(prompt)
        made += len(captions)
        assert captions[0] == prompt
        assert len({normalise_prompt(caption) for caption in captions}) == len(captions) <= 20
        for caption in captions:
            assert findings(parse_prompt(caption)) == findings(asked)
            assert parse_prompt(caption) <= asked
    assert made > 8 * len(prompts)


def test_captions_take_no_word_from_elsewhere() -> None:
    """Words are the prompt's own, synonyms of its findings, or what says where."""
    captions = captions_of(phantom := "AP chest film of a woman aged 50-59: left effusion, support devices. Exam 48213.", 20)
    own = {token.lower for token in read_words(phantom)}
    assert {token.lower for caption in captions for token in read_words(caption)} - own == {"pleural", "on", "the", "view"}


def test_prompt_with_one_finding_allows_exactly_these() -> None:
    assert sorted(captions_of("AP: left effusion", 20)) == sorted(
        [
            "AP: left effusion",
            "AP: left pleural effusion",
            "AP: effusion on the left",
            "AP: pleural effusion on the left",
            "AP view, left effusion",
            "AP view, left pleural effusion",
            "AP view, effusion on the left",
            "AP view, pleural effusion on the left",
            "left effusion",
            "left pleural effusion",
            "effusion on the left",
            "pleural effusion on the left",
        ]
    )


@pytest.mark.parametrize("prompt", ["", "chest X-ray, PA, 57-year-old woman", "no pneumothorax", "a drawing of a horse"])
def test_prompt_without_findings_is_its_only_caption(prompt: str) -> None:
    assert captions_of(prompt, 20) == [prompt]


def test_forms_take_turns_and_the_count_is_kept() -> None:
    prompt = "AP film of a man: cardiomegaly, edema, left effusion, right nodule"
    captions = captions_of(prompt, 20)
    kinds = Counter("whole" if "man" in caption else "view" if "AP" in caption else "findings" for caption in captions)
    assert kinds == {"whole": 8, "view": 6, "findings": 6}
    assert [len(captions_of(prompt, count)) for count in (1, 2, 7)] == [1, 2, 7]
    assert captions_of(prompt, 20) == captions


def test_clauses_change_places_and_others_stay() -> None:
    captions = captions_of("Edema, left nodule, fracture, stable; pneumonia and consolidation. Exam 12345", 400)
    whole = [caption for caption in captions if "stable" in caption]
    assert len(whole) > 6
    # What stands before "stable" may be what it speaks of; the identifier speaks of nothing.
    assert all("fracture, stable;" in caption for caption in whole)
    assert all(caption.endswith(". Exam 12345") for caption in whole)
    assert {caption.split("; ")[1] for caption in whole} == {
        "pneumonia and consolidation. Exam 12345",
        "consolidation and pneumonia. Exam 12345",
    }


def test_words_of_a_finding_that_is_described_stay() -> None:
    captions = captions_of("a mildly enlarged heart, edema", 400)
    assert {caption for caption in captions if "mildly" in caption} == {
        order.format(edema)
        for order in ("a mildly enlarged heart, {}", "{}, a mildly enlarged heart")
        for edema in ("edema", "oedema", "pulmonary edema", "pulmonary oedema")
    }


def test_sides_on_both_sides_become_one_word() -> None:
    both = captions_of("left greater than right effusions", 20)
    assert set(both) == {"left greater than right effusions", "bilateral effusions", "bilateral pleural effusions"}
