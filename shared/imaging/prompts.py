"""Prompts of chest radiographs: composed from labels, read back into what they ask for, and generalised word by word.

A prompt is split into clauses (at punctuation, "and", "with", "plus", "but"); a finding takes its side from its clause.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

import numpy as np

from shared.errors import DatasetError
from shared.imaging.clauses import (
    AGE_ADJECTIVE,
    CONNECTORS,
    DECADE,
    DEIDENTIFIED,
    LABELS,
    LEXICON,
    NO_FINDING,
    PRONOUNS,
    SEXES,
    VIEW_WORDS,
    WORD,
    WORDINGS,
    Token,
    WordKind,
    age_groups,
    find_negated,
    find_phrases,
    read_words,
    side_groups,
    sides_of,
    word_kinds,
)
from shared.imaging.scrubbing import scrub

_LEADING: Final = {"a", "an", "the", "of", "on", "in", "at", "or", *CONNECTORS}  # say nothing before a stop
_FOLLOWING: Final = {"of", "or", *CONNECTORS}  # say nothing after one
_ARTICLE: Final = re.compile(r"\b([Aa]n)(?= (?:woman|man|female|male|patient|person)\b)")

# What impressions of the phantom say for a finding; {side} is filled for findings that have one.
IMPRESSION_WORDINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "No Finding": ("no acute findings", "no acute abnormality"),
    "Cardiomegaly": ("cardiomegaly", "enlarged heart"),
    "Lung Lesion": ("{side} lung nodule", "lung lesion on the {side}"),
    "Edema": ("pulmonary edema", "interstitial edema"),
    "Consolidation": ("{side} consolidation", "consolidation on the {side}"),
    "Atelectasis": ("{side} atelectasis", "atelectasis on the {side}"),
    "Pneumothorax": ("{side} pneumothorax", "pneumothorax on the {side}"),
    "Pleural Effusion": ("{side} pleural effusion", "effusion on the {side}"),
    "Support Devices": ("support devices", "pacemaker"),
}

AGE_CAP: Final = 90  # CheXpert writes 90 for everyone who is at least as old
PRESENT_IN_DOUBT: Final = frozenset({"Atelectasis", "Edema"})  # CheXpert's authors found ones best for these, zeros for the others
DECADE_SHARE: Final = 0.25  # impressions that give the decade only, so that a model learns the words `generalise` puts in

Template = Literal["findings", "demographics", "impression", "report", "text"]
Uncertain = Literal["ignore", "zeros", "ones", "mixed"]
AgeWording = Literal["exact", "decade"]

TokenCounter: TypeAlias = Callable[[Sequence[str]], Sequence[int]]
"""Answers how many tokens an encoder reads in each prompt, begin and end included, before anything is cut off."""

AskedItem: TypeAlias = tuple[str, str] | tuple[str, str, str | None]
AskedItems: TypeAlias = frozenset[AskedItem]
"""What a prompt asks to see: ("view", "AP"), ("finding", "Pleural Effusion", "left"), ("finding", "Cardiomegaly", None)."""


class Describable(Protocol):
    """What is known of a film when its prompt is composed."""

    @property
    def view(self) -> str:
        """AP, PA, lateral, or another projection."""
        ...

    @property
    def sex(self) -> str:
        """Male, Female or Unknown."""
        ...

    @property
    def age(self) -> int | None:
        """Years; None when missing."""
        ...

    @property
    def labels(self) -> Mapping[str, int | None]:
        """1 present, 0 absent, -1 uncertain, None not mentioned."""
        ...

    @property
    def impression(self) -> str | None:
        """The radiologist's conclusion, if there is one."""
        ...

    @property
    def report(self) -> str | None:
        """The radiologist's findings and conclusion, if there are any."""
        ...

    @property
    def text(self) -> str | None:
        """A caption that the source brings along, if there is one."""
        ...


@dataclass(frozen=True)
class Word:
    """One word of a prompt, where it stands (characters from `start` up to `end`) and what it tells."""

    text: str
    start: int
    end: int
    kind: WordKind


# ---------------------------------------------------------------- composing


def compose_prompt(
    template: Template, film: Describable, uncertain: Uncertain, *, age: AgeWording = "exact", scrubbed: bool = False
) -> str:
    """Write the prompt of a film.

    Uncertain labels count as present under `ones`, and under `mixed` for the two findings that `ones` serves best. Texts that are
    taken over are scrubbed of de-identification marks, dates and record numbers if asked.
    """
    if template in {"findings", "demographics"}:
        parts = ["chest X-ray"]
        if film.view in VIEW_WORDS.values():
            parts.append(film.view)
        if template == "demographics":
            parts.append(_demographics(film.sex, film.age, age))
        return ", ".join([*parts, *_findings_clauses(film.labels, uncertain)])
    words = _words_of(film, template, scrubbed=scrubbed)
    if not words:
        raise DatasetError(f"a film without {template} has no prompt under the template '{template}'")
    return _with_decades(words) if age == "decade" else words


def is_described(template: Template, film: Describable, *, scrubbed: bool = False) -> bool:
    """Whether a film has the words that a template takes over; templates that need none describe every film."""
    return template in {"findings", "demographics"} or bool(_words_of(film, template, scrubbed=scrubbed))


def compose_impression(
    *, view: str, sex: str, age: int, findings: Mapping[str, str | None], normal: bool, exam: int, rng: np.random.Generator
) -> str:
    """Write a radiologist's one-line impression of a phantom film, with wordings drawn from `rng`."""
    named = view if view in {"AP", "PA"} else "Lateral"
    male = sex == "Male"
    person = str(rng.choice(["man", "male patient"] if male else ["woman", "female patient"]))
    if age >= AGE_CAP or rng.random() < DECADE_SHARE:
        patient = f"a {person} {_decade(age)}"
    else:
        article = "an" if _spoken_with_vowel(age) else "a"
        patient = str(rng.choice([f"{article} {age}-year-old {person}", f"a {person} aged {age}"]))
    film = str(rng.choice(["radiograph", "film"]))
    asked: list[tuple[str, str | None]] = [(NO_FINDING, None)] if normal else []
    asked += [(str(name), side) for name, side in findings.items()]
    shuffled = [asked[i] for i in rng.permutation(len(asked))]
    clauses = [str(rng.choice(IMPRESSION_WORDINGS[name])).format(side=side) for name, side in shuffled]
    return f"{named} chest {film} of {patient}: {', '.join(clauses)}. Exam {exam}."


def normalise_prompt(prompt: str) -> str:
    """The form under which prompts are compared: lower case, single spaces, no punctuation, no de-identification marks."""
    return " ".join(match.group().lower() for match in WORD.finditer(prompt) if not DEIDENTIFIED.search(match.group()))


def _words_of(film: Describable, template: Template, *, scrubbed: bool) -> str:
    """What the source says of a film, on one line."""
    words = {"impression": film.impression, "report": film.report, "text": film.text}.get(template) or ""
    return scrub(words) if scrubbed else " ".join(words.split())


def _with_decades(text: str) -> str:
    """A text whose exact ages have become decades."""
    tokens = read_words(text)
    exact = [
        group for group in age_groups(tokens) if not any(DECADE.fullmatch(tokens[i].lower) or tokens[i].lower == "over" for i in group)
    ]
    return generalise(text, set().union(*exact))


def _demographics(sex: str, age: int | None, wording: AgeWording) -> str:
    person = {"Male": "man", "Female": "woman"}.get(sex, "patient")
    if age is None:
        return person
    if wording == "decade":
        return f"{person} {_decade(age)}"
    return f"{age}-year-old {person}" if age < AGE_CAP else f"{person} {_aged(age)}"


def _aged(age: int) -> str:
    return f"aged {age}" if age < AGE_CAP else f"aged {AGE_CAP} or over"


def _decade(age: int) -> str:
    return f"aged {age // 10 * 10}-{age // 10 * 10 + 9}" if age < AGE_CAP else _aged(age)


def _spoken_with_vowel(age: int) -> bool:
    return age in {8, 11, 18} or 80 <= age <= 89


def _findings_clauses(labels: Mapping[str, int | None], uncertain: Uncertain) -> list[str]:
    doubted = {"ones": frozenset(LABELS), "mixed": PRESENT_IN_DOUBT}.get(uncertain, frozenset())
    present = sorted(
        name for name in LABELS if name != NO_FINDING and (labels.get(name) == 1 or (labels.get(name) == -1 and name in doubted))
    )
    clauses = [WORDINGS[name][0] for name in present]
    contradicted = any(name != "Support Devices" for name in present)
    if labels.get(NO_FINDING) == 1 and not contradicted:
        clauses.insert(0, WORDINGS[NO_FINDING][0])
    return clauses


# ---------------------------------------------------------------- reading


def parse_prompt(text: str) -> AskedItems:
    """Read what a prompt asks to see: the view, and the findings with their sides; negated findings are not asked for."""
    tokens = read_words(text)
    phrases = find_phrases(tokens)
    items: set[AskedItem] = set()
    items.update(("view", VIEW_WORDS[token.lower]) for token in tokens if token.lower in VIEW_WORDS)
    for phrase in phrases:
        sides = sides_of(tokens, tokens[phrase.first].clause)
        items.update(("finding", phrase.finding, side) for side in sides or {None})
    return frozenset(items)


def findings_of(text: str) -> frozenset[str]:
    """The names of the findings that a prompt asks for."""
    return frozenset(phrase.finding for phrase in find_phrases(read_words(text)))


def describe_words(prompt: str) -> list[Word]:
    """Name every word's part: what a mitigation needs to know before it gives a word up."""
    tokens = read_words(prompt)
    kinds = word_kinds(tokens)
    return [Word(token.text, token.start, token.end, kind) for token, kind in zip(tokens, kinds, strict=True)]


# ---------------------------------------------------------------- generalising


def generalise(prompt: str, words: AbstractSet[int]) -> str:
    """Give up the words of these positions (as `describe_words` counts) and return a clean prompt.

    An exact age becomes its decade, a sex becomes "patient"; everything else is dropped, with what makes no sense without it.
    The result never asks for a finding, or for a side of one, that the prompt did not ask for.
    """
    text = " ".join(prompt.split())
    tokens = read_words(text)
    if words and not (min(words) >= 0 and max(words) < len(tokens)):
        message = f"words must be positions from 0 to {len(tokens) - 1}"
        raise ValueError(message)
    if not words:
        return text
    allowed = _findings_with_sides(text)
    text = _without(text, tokens, _edits(tokens, words))
    while invented := _findings_with_sides(text) - allowed - {(name, None) for name, _ in allowed}:
        tokens = read_words(text)
        clauses = {tokens[phrase.first].clause for phrase in find_phrases(tokens) if phrase.finding in {name for name, _ in invented}}
        text = _without(text, tokens, {i: "" for i, token in enumerate(tokens) if token.clause in clauses})
    return text


def _findings_with_sides(text: str) -> set[tuple[str, str | None]]:
    return {(item[1], item[2]) for item in parse_prompt(text) if len(item) == 3}


def _edits(tokens: Sequence[Token], words: AbstractSet[int]) -> dict[int, str]:
    """What becomes of which word: the words given up, and those that say nothing without them."""
    kinds = word_kinds(tokens)
    edits: dict[int, str] = {}
    for unit in _units(tokens, kinds):
        if unit.isdisjoint(words):
            continue
        kind = kinds[min(unit)]
        if kind == "age":
            edits |= _age_edits(tokens, unit)
        elif kind == "sex":
            edits |= {i: _sex_substitute(tokens, i) for i in unit}
        else:
            edits |= dict.fromkeys(unit, "")
    for phrase in find_phrases(tokens):
        span = range(phrase.first, phrase.last)
        if any(edits.get(i) == "" for i in span):
            kept = " ".join(tokens[i].lower for i in span if i not in edits)
            if LEXICON.get(kept) != phrase.finding:
                edits |= dict.fromkeys(_orphans(tokens, kinds, span), "")
    return edits | _moved_age(tokens, edits)


def _age_edits(tokens: Sequence[Token], unit: AbstractSet[int]) -> dict[int, str]:
    """An exact age gives way to its decade, a decade to nothing."""
    first = min(unit)
    edits = dict.fromkeys(unit, "")
    years = [int(match.group()) for i in sorted(unit) if (match := re.match(r"\d+", tokens[i].text))]
    coarse = any(DECADE.fullmatch(tokens[i].lower) or tokens[i].lower == "over" for i in unit)
    if coarse or not years:
        return edits
    return edits | {first: _decade(years[0])}


def _moved_age(tokens: Sequence[Token], edits: Mapping[int, str]) -> dict[int, str]:
    """A decade stands behind the person ("woman aged 50-59"), where the exact age stood before."""
    moved: dict[int, str] = {}
    for i, text in edits.items():
        if text.startswith("aged ") and AGE_ADJECTIVE.fullmatch(tokens[i].lower):
            moved[i] = ""
            person = i + 1
            while person + 1 < len(tokens) and tokens[person].lower in SEXES and tokens[person + 1].lower == "patient":
                person += 1
            if person < len(tokens) and tokens[person].lower in {*SEXES, "patient", "person", "adult"}:
                moved[person] = f"{edits.get(person, tokens[person].text)} {text}".strip()
    return moved


def _sex_substitute(tokens: Sequence[Token], i: int) -> str:
    if tokens[i].lower in PRONOUNS:
        return "their"
    followed = i + 1 < len(tokens) and tokens[i + 1].lower == "patient"
    return "" if followed else "patient"


def _orphans(tokens: Sequence[Token], kinds: Sequence[WordKind], span: range) -> list[int]:
    """Words that go with a lost finding: its phrase, and its clause's sides and adjectives unless another finding needs them."""
    clause = tokens[span.start].clause
    shared = any(tokens[phrase.first].clause == clause and phrase.first != span.start for phrase in find_phrases(tokens))
    if shared:
        return list(span)
    return [i for i, token in enumerate(tokens) if token.clause == clause and kinds[i] in {"finding", "side", "other"}]


def _without(text: str, tokens: Sequence[Token], edits: Mapping[int, str]) -> str:
    """Render the prompt with its words edited; gaps around dropped words melt into their strongest punctuation mark."""
    gone = {i for i, replacement in edits.items() if not replacement}
    gone |= _dangling(text, tokens, gone)
    rendered, gap, melted = "", "", False
    position = 0
    for i, token in enumerate(tokens):
        gap += text[position : token.start]
        position = token.end
        if i in gone:
            melted = True
            gap += "," if token.lower in CONNECTORS else ""  # "a and b" becomes "a, b": what stood apart stays apart
            continue
        if melted:
            gap = _melt(gap) + " " if rendered else ""
        word = edits.get(i, token.text)
        rendered += gap + word
        gap, melted = "", False
    gap += text[position:]
    if melted:
        gap = "." if rendered and "." in gap else ""
    return _ARTICLE.sub(lambda match: match.group(1)[0], rendered + gap)


def _melt(gap: str) -> str:
    return next((mark for mark in ".;:," if mark in gap), "")


def _dangling(text: str, tokens: Sequence[Token], gone: AbstractSet[int]) -> set[int]:
    """Function words left before a stop ("of a") or after one ("and") once their neighbours are gone."""
    extra: set[int] = set()
    changed = True
    while changed:
        absent = gone | extra
        changed = False
        for i, token in enumerate(tokens):
            if i in absent:
                continue
            before_stop = token.lower in _LEADING and _stopped(text, tokens, absent, i, forward=True)
            after_stop = token.lower in _FOLLOWING and _stopped(text, tokens, absent, i, forward=False)
            if before_stop or after_stop:
                extra.add(i)
                changed = True
                break
    return extra


def _stopped(text: str, tokens: Sequence[Token], absent: AbstractSet[int], i: int, *, forward: bool) -> bool:
    """Whether a dropped neighbour leaves the word at the end (or the start) of its clause."""
    step = 1 if forward else -1
    j = i + step
    if j not in absent:
        return False
    while j in absent:
        j += step
    if not 0 <= j < len(tokens):
        return True
    low, high = min(i, j), max(i, j)
    return any(_melt(text[tokens[k].end : tokens[k + 1].start]) for k in range(low, high)) or (forward and tokens[j].lower in CONNECTORS)


def _units(tokens: Sequence[Token], kinds: Sequence[WordKind]) -> list[set[int]]:
    """Words that are given up together; every word is in at least one unit."""
    units = age_groups(tokens)
    units += [{i - 1, i} for i in range(1, len(tokens)) if kinds[i] == "identifier" and kinds[i - 1] == "identifier"]
    units += [group for group in side_groups(tokens) if all(kinds[i] == "side" for i in group)]
    units += _negation_units(tokens, kinds)
    covered = set().union(*units) if units else set()
    return units + [{i} for i in range(len(tokens)) if i not in covered]


def _negation_units(tokens: Sequence[Token], kinds: Sequence[WordKind]) -> list[set[int]]:
    """Runs of words under one negation; "no acute findings" is a finding of its own and not among them."""
    runs: list[set[int]] = []
    for i in sorted(i for i in find_negated(tokens) if kinds[i] != "finding"):
        if runs and i - 1 in runs[-1]:
            runs[-1].add(i)
        else:
            runs.append({i})
    return runs
