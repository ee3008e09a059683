"""How a prompt is read: its words and clauses, the findings named in them, and what is negated.

A clause ends at punctuation and before "and", "with", "plus" and "but"; a finding takes its side from its clause.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, Literal

WordKind = Literal["finding", "side", "view", "age", "sex", "identifier", "other"]

LABELS: Final = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""The label columns of CheXpert, in its order."""

NO_FINDING: Final = "No Finding"

# The first wording of each is the one that label templates write; all of them are read.
WORDINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "No Finding": ("no acute findings", "no acute finding", "no acute abnormality", "no findings", "no finding", "no abnormality"),
    "Enlarged Cardiomediastinum": ("enlarged cardiomediastinum", "widened mediastinum", "enlarged mediastinum", "mediastinal widening"),
    "Cardiomegaly": ("cardiomegaly", "enlarged heart", "enlarged cardiac silhouette", "cardiac enlargement"),
    "Lung Opacity": ("lung opacity", "lung opacities", "airspace opacity", "opacity", "opacities"),
    "Lung Lesion": ("lung lesion", "lung nodule", "pulmonary nodule", "lung mass", "nodule", "lesion"),
    "Edema": ("edema", "pulmonary edema", "interstitial edema", "oedema", "pulmonary oedema"),
    "Consolidation": ("consolidation", "consolidations"),
    "Pneumonia": ("pneumonia",),
    "Atelectasis": ("atelectasis", "atelectases", "lobar collapse"),
    "Pneumothorax": ("pneumothorax", "pneumothoraces"),
    "Pleural Effusion": ("pleural effusion", "pleural effusions", "effusion", "effusions"),
    "Pleural Other": ("pleural thickening", "pleural scarring"),
    "Fracture": ("fracture", "fractures", "rib fracture", "rib fractures"),
    "Support Devices": ("support devices", "support device", "pacemaker", "central line", "endotracheal tube", "catheter"),
}

# Wordings that may stand for each other in one film's prompt: none says more than another, such as where, how many, or which device.
SYNONYMS: Final[tuple[tuple[str, ...], ...]] = (
    ("no acute findings", "no acute finding", "no acute abnormality"),
    ("no findings", "no finding", "no abnormality"),
    ("widened mediastinum", "enlarged mediastinum", "mediastinal widening"),
    ("cardiomegaly", "enlarged heart", "enlarged cardiac silhouette", "cardiac enlargement"),
    ("lung nodule", "pulmonary nodule"),
    ("edema", "oedema", "pulmonary edema", "pulmonary oedema"),
    ("pleural effusion", "effusion"),
    ("pleural effusions", "effusions"),
)

WORD: Final = re.compile(r"\w+(?:[-'’]\w+|(?<=\d)[/.](?=\d)\w+)*")
DEIDENTIFIED: Final = re.compile(r"_{2,}|^X{4,}$|^PHI$|^REDACTED$", re.IGNORECASE)
AGE_ADJECTIVE: Final = re.compile(r"(\d{1,3}|_{2,})-years?-old")
DECADE: Final = re.compile(r"\d{1,2}-\d{1,2}")
_NUMBER: Final = re.compile(r"\d{1,3}")

VIEW_WORDS: Final = {"ap": "AP", "pa": "PA", "lateral": "lateral"}
SIDE_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "left": ("left",),
    "left-sided": ("left",),
    "right": ("right",),
    "right-sided": ("right",),
    "bilateral": ("left", "right"),
}
SEXES: Final = {"woman", "man", "female", "male"}
PRONOUNS: Final = {"her", "his"}
CONNECTORS: Final = {"and", "with", "plus", "but"}
NEGATIONS: Final = {"no", "without", "not", "never", "absent"}
_IDENTIFIER_LABELS: Final = {"exam", "examination", "accession", "study", "case", "film", "note", "record", "number", "id", "mrn"}
_IDENTIFIER_DIGITS: Final = 3  # shorter runs are counts and measures
_PLACES: Final = {"lung", "side", "hemithorax", "base", "apex"}

LEXICON: Final[Mapping[str, str]] = {wording: finding for finding, wordings in WORDINGS.items() for wording in wordings}
SAME_MEANING: Final[Mapping[str, tuple[str, ...]]] = {wording: (wording,) for wording in LEXICON} | {
    wording: group for group in SYNONYMS for wording in group
}
"""For every wording those that may stand for it, itself among them."""

_LONGEST: Final = max(len(wording.split()) for wording in LEXICON)


@dataclass(frozen=True)
class Token:
    """A word with the clause and the sentence that it stands in."""

    text: str
    lower: str
    start: int
    end: int
    clause: int
    sentence: int


@dataclass(frozen=True)
class Phrase:
    """A finding that is named, in the words from `first` up to `last`."""

    finding: str
    first: int
    last: int


def read_words(text: str) -> list[Token]:
    """All words of a prompt, in order."""
    tokens: list[Token] = []
    clause = sentence = position = 0
    for match in WORD.finditer(text):
        gap = text[position : match.start()]
        lower = match.group().lower()
        sentence += any(mark in gap for mark in ".;:\n")
        clause += any(mark in gap for mark in ",.;:\n()") or lower in CONNECTORS
        tokens.append(Token(match.group(), lower, match.start(), match.end(), clause, sentence))
        position = match.end()
    return tokens


def find_phrases(tokens: Sequence[Token]) -> list[Phrase]:
    """All findings that are named and not negated, longest wording first."""
    negated = find_negated(tokens)
    phrases = []
    i = 0
    while i < len(tokens):
        phrase = _phrase_at(tokens, i)
        if phrase is None:
            i += 1
            continue
        if phrase.finding == NO_FINDING or i not in negated:
            phrases.append(phrase)
        i = phrase.last
    return phrases


def _phrase_at(tokens: Sequence[Token], first: int) -> Phrase | None:
    for last in range(min(first + _LONGEST, len(tokens)), first, -1):
        if tokens[last - 1].clause == tokens[first].clause:
            finding = LEXICON.get(" ".join(token.lower for token in tokens[first:last]))
            if finding is not None:
                return Phrase(finding, first, last)
    return None


def find_negated(tokens: Sequence[Token]) -> set[int]:
    """Positions under a negation: the rest of its clause, and all of a list that "or" closes ("no a, b, or c")."""
    negated: set[int] = set()
    start: int | None = None  # of the negation that the present sentence is under
    for i, token in enumerate(tokens):
        new_clause = i == 0 or token.clause != tokens[i - 1].clause
        if i and token.sentence != tokens[i - 1].sentence:
            start = None
        if token.lower in NEGATIONS:
            start = i
        elif start is not None and new_clause and token.lower in {"or", "nor"}:
            negated.update(range(start, i))
            negated.update(j for j, other in enumerate(tokens) if other.clause == token.clause)
        if start is not None and tokens[start].clause == token.clause:
            negated.add(i)
    return negated


def sides_of(tokens: Sequence[Token], clause: int) -> set[str | None]:
    """The sides that are named in a clause."""
    return {side for token in tokens if token.clause == clause for side in SIDE_WORDS.get(token.lower, ())}


def word_kinds(tokens: Sequence[Token]) -> list[WordKind]:
    """What each word tells; a word of a finding is nothing else."""
    kinds = [_kind_alone(token) for token in tokens]
    negated = find_negated(tokens)
    for group in side_groups(tokens):
        if group.isdisjoint(negated):
            _paint(kinds, group, "side")
    for group in age_groups(tokens):
        _paint(kinds, group, "age")
    for phrase in find_phrases(tokens):
        _paint(kinds, set(range(phrase.first, phrase.last)), "finding")
    for i in range(1, len(tokens)):
        if kinds[i] == "identifier" and tokens[i - 1].lower in _IDENTIFIER_LABELS:
            kinds[i - 1] = "identifier"
    return kinds


def _kind_alone(token: Token) -> WordKind:
    if token.lower in VIEW_WORDS or token.lower == "frontal":
        return "view"
    if token.lower in SEXES | PRONOUNS:
        return "sex"
    digits = sum(character.isdigit() for character in token.text)
    return "identifier" if digits >= _IDENTIFIER_DIGITS or DEIDENTIFIED.search(token.text) else "other"


def _paint(kinds: list[WordKind], positions: AbstractSet[int], kind: WordKind) -> None:
    for i in positions:
        kinds[i] = kind


def side_groups(tokens: Sequence[Token]) -> list[set[int]]:
    """Side words with what belongs to them: "left", "on the left", "in the left lung"."""
    groups = []
    for i, token in enumerate(tokens):
        if token.lower not in SIDE_WORDS:
            continue
        group = {i}
        if i >= 2 and tokens[i - 1].lower == "the" and tokens[i - 2].lower in {"on", "in", "at"}:
            group |= {i - 1, i - 2}
            if i + 1 < len(tokens) and tokens[i + 1].lower in _PLACES and _phrase_at(tokens, i + 1) is None:
                group.add(i + 1)
        groups.append(group)
    return groups


def age_groups(tokens: Sequence[Token]) -> list[set[int]]:
    """Ages as one reads them: "57-year-old", "57 years old", "aged 57", "aged 50-59", "aged 90 or over"."""
    groups = []
    lowers = [token.lower for token in tokens]
    for i, word in enumerate(lowers):
        following = lowers[i + 1 : i + 4]
        if AGE_ADJECTIVE.fullmatch(word):
            groups.append({i})
        elif word in {"aged", "age"} and following and (_NUMBER.fullmatch(following[0]) or DECADE.fullmatch(following[0])):
            groups.append({i, i + 1, i + 2, i + 3} if following[1:] == ["or", "over"] else {i, i + 1})
        elif _NUMBER.fullmatch(word) and following[:2] in (["years", "old"], ["year", "old"]):
            groups.append({i, i + 1, i + 2})
    return groups
