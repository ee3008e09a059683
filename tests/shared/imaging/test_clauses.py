"""How prompts are taken apart: clauses, findings, negation, kinds of words."""

from __future__ import annotations

import pytest

from shared.imaging.clauses import (
    LABELS,
    LEXICON,
    SAME_MEANING,
    SYNONYMS,
    WORDINGS,
    find_negated,
    find_phrases,
    read_words,
    side_groups,
    word_kinds,
)


def findings(text: str) -> list[str]:
    return [phrase.finding for phrase in find_phrases(read_words(text))]


def negated(text: str) -> list[str]:
    tokens = read_words(text)
    return [tokens[i].lower for i in sorted(find_negated(tokens))]


def test_every_label_has_a_wording_of_its_own() -> None:
    assert set(WORDINGS) == set(LABELS)
    assert len(LEXICON) == sum(len(wordings) for wordings in WORDINGS.values())


@pytest.mark.parametrize("wording", sorted(LEXICON))
def test_every_wording_is_read_as_its_finding(wording: str) -> None:
    assert findings(f"AP chest radiograph of a man: {wording.upper()}. Exam 10000.") == [LEXICON[wording]]


def test_synonyms_are_wordings_of_one_finding_each_in_one_group() -> None:
    assert all(len({LEXICON[wording] for wording in group}) == 1 for group in SYNONYMS)
    assert len({wording for group in SYNONYMS for wording in group}) == sum(map(len, SYNONYMS))
    assert set(SAME_MEANING) == set(LEXICON)
    assert SAME_MEANING["pacemaker"] == ("pacemaker",)  # a support device, but not any
    assert SAME_MEANING["effusion"] == ("pleural effusion", "effusion")


def test_clauses_end_at_punctuation_and_connectors() -> None:
    tokens = read_words("left effusion, edema and right nodule. Exam 5")
    assert [(token.text, token.clause, token.sentence) for token in tokens] == [
        ("left", 0, 0),
        ("effusion", 0, 0),
        ("edema", 1, 0),
        ("and", 2, 0),
        ("right", 2, 0),
        ("nodule", 2, 0),
        ("Exam", 3, 1),
        ("5", 3, 1),
    ]


def test_wording_does_not_span_clauses() -> None:
    assert findings("enlarged, heart") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no pleural effusion", []),
        ("no pleural effusion or edema", []),
        ("no pleural effusion, pneumothorax, or edema", []),
        ("no effusion, cardiomegaly", ["Cardiomegaly"]),
        ("without edema. Pneumothorax", ["Pneumothorax"]),
        ("cardiomegaly without edema", ["Cardiomegaly"]),
        ("no acute findings", ["No Finding"]),
        ("no acute findings, support devices", ["No Finding", "Support Devices"]),
    ],
)
def test_negated_findings_do_not_count(text: str, expected: list[str]) -> None:
    assert findings(text) == expected


def test_negation_covers_the_list_that_or_closes() -> None:
    assert negated("Edema. no effusion, nodule, or mass. Fracture") == ["no", "effusion", "nodule", "or", "mass"]


def test_side_takes_its_preposition_along() -> None:
    tokens = read_words("effusion on the left, nodule in the right lung, left lung mass")
    assert [sorted(tokens[i].text for i in group) for group in side_groups(tokens)] == [
        ["left", "on", "the"],
        ["in", "lung", "right", "the"],
        ["left"],
    ]


def test_every_kind_of_word_is_told() -> None:
    tokens = read_words("Lateral film of her, 57-year-old female patient aged 50-59: no edema, effusion on the left. Exam 48213, ___")
    kinds = dict(zip([token.text for token in tokens], word_kinds(tokens), strict=True))
    assert kinds == {
        "Lateral": "view",
        "film": "other",
        "of": "other",
        "her": "sex",
        "57-year-old": "age",
        "female": "sex",
        "patient": "other",
        "aged": "age",
        "50-59": "age",
        "no": "other",
        "edema": "other",
        "effusion": "finding",
        "on": "side",
        "the": "side",
        "left": "side",
        "Exam": "identifier",
        "48213": "identifier",
        "___": "identifier",
    }


@pytest.mark.parametrize("text", ["57 years old", "aged 57", "aged 90 or over", "57-year-old", "___-year-old", "age 100"])
def test_whole_age_is_told(text: str) -> None:
    assert set(word_kinds(read_words(text))) == {"age"}


@pytest.mark.parametrize("text", ["MRN 1234567", "accession AB12345", "2019-03-01", "03/01/2019", "XXXX", "[** Name **] 555"])
def test_identifiers_are_told(text: str) -> None:
    assert "identifier" in word_kinds(read_words(text))


def test_small_numbers_are_no_identifiers() -> None:
    assert word_kinds(read_words("study 2 of 12")) == ["other"] * 4
