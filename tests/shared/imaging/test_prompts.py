"""Composing prompts, reading them back, and giving words up."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import DatasetError
from shared.imaging.clauses import LABELS, NO_FINDING
from shared.imaging.phantom import FINDINGS, SIDED
from shared.imaging.prompts import (
    IMPRESSION_WORDINGS,
    compose_impression,
    compose_prompt,
    describe_words,
    findings_of,
    generalise,
    is_described,
    normalise_prompt,
    parse_prompt,
)

FOUND_THERE = "effusion on the left, enlarged heart, support devices"
PROMPT = f"AP chest radiograph of an 82-year-old female patient: {FOUND_THERE}. Exam 48213."


@dataclass(frozen=True)
class Row:
    """A film as a data set describes it."""

    view: str = "AP"
    sex: str = "Female"
    age: int | None = 57
    labels: dict[str, int | None] = field(default_factory=dict)
    impression: str | None = None
    report: str | None = None
    text: str | None = None


def positions(prompt: str, *kinds: str) -> set[int]:
    return {i for i, word in enumerate(describe_words(prompt)) if word.kind in kinds}


# ---------------------------------------------------------------- composing


def test_findings_template_lists_view_and_sorted_findings() -> None:
    row = Row(labels={"Support Devices": 1, "Edema": 1, "Cardiomegaly": 0, "Fracture": None})
    assert compose_prompt("findings", row, "ignore") == "chest X-ray, AP, edema, support devices"


def test_demographics_template_adds_age_and_sex() -> None:
    assert compose_prompt("demographics", Row(labels={"Edema": 1}), "ignore") == "chest X-ray, AP, 57-year-old woman, edema"


@pytest.mark.parametrize(
    ("sex", "age", "expected"),
    [
        ("Male", 90, "chest X-ray, AP, man aged 90 or over"),
        ("Unknown", 57, "chest X-ray, AP, 57-year-old patient"),
        ("Female", None, "chest X-ray, AP, woman"),
        ("Unknown", None, "chest X-ray, AP, patient"),
    ],
)
def test_demographics_template_copes_with_what_is_missing(sex: str, age: int | None, expected: str) -> None:
    assert compose_prompt("demographics", Row(sex=sex, age=age), "ignore") == expected


@pytest.mark.parametrize("view", ["LL", "RL", "frontal"])
def test_unnamed_projection_is_left_out(view: str) -> None:
    assert compose_prompt("findings", Row(view=view), "ignore") == "chest X-ray"


@pytest.mark.parametrize(
    ("uncertain", "expected"),
    [
        ("ignore", "chest X-ray, AP, edema"),
        ("zeros", "chest X-ray, AP, edema"),
        ("ones", "chest X-ray, AP, edema, pneumonia"),
        ("mixed", "chest X-ray, AP, edema"),
    ],
)
def test_uncertain_label_counts_by_policy(uncertain: str, expected: str) -> None:
    row = Row(labels={"Edema": 1, "Pneumonia": -1})
    assert compose_prompt("findings", row, uncertain) == expected  # type: ignore[arg-type]


def test_mixed_policy_counts_doubts_about_two_findings() -> None:
    row = Row(labels=dict.fromkeys(LABELS, -1))
    assert compose_prompt("findings", row, "mixed") == "chest X-ray, AP, atelectasis, edema"


def test_no_finding_goes_with_devices_but_not_with_findings() -> None:
    devices = Row(labels={NO_FINDING: 1, "Support Devices": 1, "Pneumonia": -1})
    assert compose_prompt("findings", devices, "ignore") == "chest X-ray, AP, no acute findings, support devices"
    assert compose_prompt("findings", devices, "ones") == "chest X-ray, AP, pneumonia, support devices"


def test_impression_template_takes_the_words_as_they_are() -> None:
    assert compose_prompt("impression", Row(impression=" 1. Stable\n edema. "), "ignore") == "1. Stable edema."


@pytest.mark.parametrize("template", ["impression", "report", "text"])
def test_text_templates_take_their_own_column(template: Any) -> None:
    row = Row(impression="of impression", report="of report", text="of text")
    assert compose_prompt(template, row, "ignore") == f"of {template}"
    assert is_described(template, row)
    assert not is_described(template, replace(row, **{template: " \n"}))


def test_label_templates_describe_every_film() -> None:
    assert is_described("findings", Row())
    assert is_described("demographics", Row())


def test_text_that_is_nothing_but_marks_describes_no_film() -> None:
    row = Row(report=" ___. [**2020-1-1**]")
    assert is_described("report", row)
    assert not is_described("report", row, scrubbed=True)
    with pytest.raises(DatasetError, match="a film without report"):
        compose_prompt("report", row, "ignore", scrubbed=True)


def test_text_is_scrubbed_if_asked() -> None:
    row = Row(impression="Edema since ___.\nMRN 1234567. Effusion.")
    assert compose_prompt("impression", row, "ignore", scrubbed=True) == "Edema. Effusion."
    assert compose_prompt("impression", row, "ignore") == "Edema since ___. MRN 1234567. Effusion."


@pytest.mark.parametrize(
    ("age", "expected"),
    [(57, "woman aged 50-59"), (4, "woman aged 0-9"), (89, "woman aged 80-89"), (90, "woman aged 90 or over"), (None, "woman")],
)
def test_age_is_given_by_decade(age: int | None, expected: str) -> None:
    assert compose_prompt("demographics", Row(age=age), "ignore", age="decade") == f"chest X-ray, AP, {expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AP film of a 57-year-old woman: edema.", "AP film of a woman aged 50-59: edema."),
        ("A man aged 63, effusion.", "A man aged 60-69, effusion."),
        ("A man aged 60-69, edema in a man aged 90 or over.", "A man aged 60-69, edema in a man aged 90 or over."),
        ("No ages here, 57 films.", "No ages here, 57 films."),
    ],
)
def test_ages_in_texts_become_decades(text: str, expected: str) -> None:
    assert compose_prompt("impression", Row(impression=text), "ignore", age="decade") == expected


def test_impression_template_without_impression_is_refused() -> None:
    with pytest.raises(DatasetError, match="impression"):
        compose_prompt("impression", Row(), "ignore")


@given(st.dictionaries(st.sampled_from(LABELS), st.sampled_from([1, 0, -1, None])), st.sampled_from(["AP", "PA", "lateral"]))
def test_label_templates_are_read_back(labels: dict[str, int | None], view: str) -> None:
    present = {name for name, value in labels.items() if value == 1}
    if present - {NO_FINDING, "Support Devices"}:
        present.discard(NO_FINDING)
    expected = {("view", view), *(("finding", name, None) for name in present)}
    for template in ("findings", "demographics"):
        assert parse_prompt(compose_prompt(template, Row(view=view, labels=labels), "ignore")) == expected  # type: ignore[arg-type]


FOUND = st.dictionaries(st.sampled_from(FINDINGS), st.sampled_from(["left", "right"]), max_size=3).map(
    lambda found: {name: side if name in SIDED else None for name, side in found.items()}
)


@st.composite
def impressions(draw: st.DrawFn) -> tuple[str, dict[str, str | None], str]:
    found = draw(FOUND)
    view = draw(st.sampled_from(["AP", "PA", "lateral"]))
    text = compose_impression(
        view=view,
        sex=draw(st.sampled_from(["Male", "Female"])),
        age=draw(st.integers(1, 90)),
        findings=found,
        normal=not set(found) - {"Support Devices"},
        exam=draw(st.integers(10_000, 99_999)),
        rng=np.random.default_rng(draw(st.integers(0, 1000))),
    )
    return text, found, view


def test_every_drawn_finding_has_wordings() -> None:
    assert set(IMPRESSION_WORDINGS) == {*FINDINGS, NO_FINDING}
    assert all(("{side}" in wording) == (name in SIDED) for name, wordings in IMPRESSION_WORDINGS.items() for wording in wordings)


@given(impressions())
def test_impressions_are_read_back(composed: tuple[str, dict[str, str | None], str]) -> None:
    text, found, view = composed
    expected = {("view", view), *(("finding", name, side) for name, side in found.items())}
    if not set(found) - {"Support Devices"}:
        expected.add(("finding", NO_FINDING, None))
    assert parse_prompt(text) == expected
    assert parse_prompt(text.upper()) == expected
    assert re.search(r" Exam \d{5}\.$", text)


def test_impression_of_the_oldest_says_or_over() -> None:
    rng = np.random.default_rng(0)
    text = compose_impression(view="PA", sex="Male", age=90, findings={}, normal=True, exam=10_000, rng=rng)
    assert "aged 90 or over: no acute" in text


def test_wordings_vary() -> None:
    texts = {
        compose_impression(view="AP", sex="Male", age=57, findings={"Edema": None}, normal=False, exam=1, rng=np.random.default_rng(seed))
        for seed in range(200)
    }
    assert len(texts) == 2 * 2 * 3 * 2  # radiograph or film, two words for a man, three ages, two words for edema


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", set()),
        ("pleural effusion", {("finding", "Pleural Effusion", None)}),
        ("Left-sided effusion and RIGHT pneumothorax", {("finding", "Pleural Effusion", "left"), ("finding", "Pneumothorax", "right")}),
        ("bilateral consolidation", {("finding", "Consolidation", "left"), ("finding", "Consolidation", "right")}),
        ("portable ap film with edema", {("view", "AP"), ("finding", "Edema", None)}),
        ("no pleural effusion on the left", set()),
    ],
)
def test_prompt_asks_for(text: str, expected: set[object]) -> None:
    assert parse_prompt(text) == expected


def test_words_are_told_with_their_places() -> None:
    words = describe_words(PROMPT)
    assert [PROMPT[word.start : word.end] for word in words] == [word.text for word in words]
    assert [(word.text, word.kind) for word in words[:8]] == [
        ("AP", "view"),
        ("chest", "other"),
        ("radiograph", "other"),
        ("of", "other"),
        ("an", "other"),
        ("82-year-old", "age"),
        ("female", "sex"),
        ("patient", "other"),
    ]


def test_prompts_compare_without_case_punctuation_and_marks() -> None:
    assert normalise_prompt("AP film:  Edema,\n ___ Exam 5.") == normalise_prompt("ap film edema exam 5") == "ap film edema exam 5"
    assert normalise_prompt("Exam 5") != normalise_prompt("Exam 6")


# ---------------------------------------------------------------- generalising


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ((), PROMPT),
        (("identifier",), f"AP chest radiograph of an 82-year-old female patient: {FOUND_THERE}."),
        (("age",), f"AP chest radiograph of a female patient aged 80-89: {FOUND_THERE}. Exam 48213."),
        (("sex",), f"AP chest radiograph of an 82-year-old patient: {FOUND_THERE}. Exam 48213."),
        (("age", "sex"), f"AP chest radiograph of a patient aged 80-89: {FOUND_THERE}. Exam 48213."),
        (("view",), f"chest radiograph of an 82-year-old female patient: {FOUND_THERE}. Exam 48213."),
        (("side",), "AP chest radiograph of an 82-year-old female patient: effusion, enlarged heart, support devices. Exam 48213."),
        (("finding",), "AP chest radiograph of an 82-year-old female patient. Exam 48213."),
        (("finding", "identifier"), "AP chest radiograph of an 82-year-old female patient."),
    ],
)
def test_words_are_given_up_cleanly(kinds: tuple[str, ...], expected: str) -> None:
    assert generalise(PROMPT, positions(PROMPT, *kinds)) == expected


@pytest.mark.parametrize(
    ("prompt", "word", "expected"),
    [
        ("AP film of a 57-year-old man: edema.", "man", "AP film of a 57-year-old patient: edema."),
        ("AP film of an 82-year-old woman: edema.", "82-year-old", "AP film of a woman aged 80-89: edema."),
        ("AP film of a woman aged 80-89: edema.", "80-89", "AP film of a woman: edema."),
        ("AP film of a man aged 90 or over: edema.", "90", "AP film of a man: edema."),
        ("AP film of a ___-year-old man: edema.", "___-year-old", "AP film of a man: edema."),
        ("left pleural effusion, edema", "pleural", "left effusion, edema"),
        ("left pleural effusion, edema", "effusion", "edema"),
        ("edema, left pleural effusion", "effusion", "edema"),
        ("edema and left pneumothorax", "and", "edema, left pneumothorax"),
        ("man with edema and left pneumothorax", "pneumothorax", "man with edema"),
        ("no effusion, nodule, or mass. Edema", "nodule", "Edema"),
        ("no acute findings, pacemaker", "acute", "no findings, pacemaker"),
        ("no acute findings, pacemaker", "no", "pacemaker"),
        ("edema. Exam #48213.", "48213", "edema."),
        ("edema", "edema", ""),
        ("edema, enlarged left heart", "left", "edema"),
        ("edema, no left, effusion", "left", "edema, effusion"),
    ],
)
def test_one_word_is_given_up_cleanly(prompt: str, word: str, expected: str) -> None:
    index = [described.text for described in describe_words(prompt)].index(word)
    assert generalise(prompt, {index}) == expected


@pytest.mark.parametrize("word", [-1, 18])
def test_word_that_does_not_exist_is_refused(word: int) -> None:
    with pytest.raises(ValueError, match="positions from 0 to 17"):
        generalise(PROMPT, {word})


def sided(text: str) -> set[tuple[str, str | None]]:
    return {(item[1], item[2]) for item in parse_prompt(text) if len(item) == 3}


def check_generalised(prompt: str, words: set[int]) -> None:
    result = generalise(prompt, words)
    assert findings_of(result) <= findings_of(prompt)
    assert {item for item in sided(result) if item[1]} <= sided(prompt)
    assert generalise(result, set()) == result
    assert not re.search(r"\s\s|\s[,.;:]|[,;:]\s*[,.;:]|^[\s,.;:]|(^|\s)-year-old", result)


@settings(max_examples=300)
@given(impressions(), st.data())
def test_generalised_impression_asks_for_nothing_new(composed: tuple[str, dict[str, str | None], str], data: st.DataObject) -> None:
    text = composed[0]
    check_generalised(text, data.draw(st.sets(st.integers(0, len(describe_words(text)) - 1))))


# Few enough words that phrases arise, and arise anew when what stands between is given up.
SALAD = "enlarged heart no findings left effusion pleural edema and or on the aged 57 82-year-old woman Exam 48213".split()  # noqa: SIM905
PIECES = st.tuples(st.sampled_from(SALAD), st.sampled_from([" ", " ", " ", ", ", ". ", ": "]))


@settings(max_examples=1000)
@given(st.lists(PIECES, min_size=1, max_size=14), st.data())
def test_generalised_word_salad_asks_for_nothing_new(pieces: list[tuple[str, str]], data: st.DataObject) -> None:
    text = "".join(word + gap for word, gap in pieces).rstrip(" ,:")
    check_generalised(text, data.draw(st.sets(st.integers(0, len(pieces) - 1))))


@given(impressions())
def test_identifiers_are_gone_after_one_round(composed: tuple[str, dict[str, str | None], str]) -> None:
    text = composed[0]
    result = generalise(text, positions(text, "identifier"))
    assert not positions(result, "identifier")
    assert parse_prompt(result) == parse_prompt(text)


@given(impressions())
def test_ages_are_gone_after_two_rounds(composed: tuple[str, dict[str, str | None], str]) -> None:
    text = composed[0]
    once = generalise(text, positions(text, "age"))
    twice = generalise(once, positions(once, "age"))
    assert not positions(twice, "age")
    assert parse_prompt(twice) == parse_prompt(text)
