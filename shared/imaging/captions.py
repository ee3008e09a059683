"""Other captions for a film, made from its prompt alone: findings in another order, in other words, without what else it says.

For training on multiple captions (MC, Somepalli et al., NeurIPS 2023). Theirs are written by a captioner; how these are made is our
reconstruction, and needs no language model. `parse_prompt` reads the prompt's findings and sides from every one, and no others.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

import numpy as np

from shared.imaging.clauses import (
    CONNECTORS,
    SAME_MEANING,
    VIEW_WORDS,
    Phrase,
    Token,
    find_negated,
    find_phrases,
    read_words,
    sides_of,
    word_kinds,
)
from shared.imaging.prompts import normalise_prompt, parse_prompt

_DRAWS: Final = 2  # of a form for each caption asked for: forms of a short prompt may say the same
_NUMBERED: Final = 2**62  # variants of a form that are told apart: a long report has more than a number holds


def captions_of(prompt: str, count: int) -> list[str]:
    """The prompt and up to `count` − 1 other captions, always the same ones for a prompt; fewer where it allows no more.

    Rewordings of the whole prompt, captions of findings and view, and captions of findings alone take turns.
    """
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8]))
    captions = {normalise_prompt(prompt): prompt}
    turns = itertools.zip_longest(*(form.drawn(_DRAWS * count, rng) for form in _forms(prompt)))
    for caption in itertools.chain.from_iterable(turns):
        if len(captions) == count:
            break
        if caption is not None:
            captions.setdefault(normalise_prompt(caption), caption)
    return list(captions.values())


@dataclass(frozen=True)
class _Form:
    """A caption whose clauses may change places within their run, and be worded in several ways.

    Case is kept as it stands: the tokenizers read lower case alone.
    """

    gaps: Sequence[str]  # what stands before, between and behind the clauses
    wordings: Sequence[Sequence[str]]  # of each clause
    runs: Sequence[range]  # of clauses that may change places
    asked: AbstractSet[object] | None = None  # what must be read from a variant, where its making alone does not see to it

    def drawn(self, count: int, rng: np.random.Generator) -> Iterator[str]:
        """Up to so many different variants by lot."""
        size = math.prod(math.factorial(len(run)) for run in self.runs) * math.prod(map(len, self.wordings))
        size = min(size, _NUMBERED)
        for number in rng.choice(size, size=min(size, count), replace=False).tolist():
            variant = self._variant(number)
            if self.asked is None or parse_prompt(variant) == self.asked:
                yield variant

    def _variant(self, number: int) -> str:
        """Each number is one order of the clauses with one wording of each."""
        order = list(range(len(self.wordings)))
        for run in self.runs:
            rest = list(run)
            for place in run:
                number, taken = divmod(number, len(rest))
                order[place] = rest.pop(taken)
        told = self.gaps[0]
        for clause, gap in zip(order, self.gaps[1:], strict=True):
            number, which = divmod(number, len(self.wordings[clause]))
            told += self.wordings[clause][which] + gap
        return told


def _forms(prompt: str) -> list[_Form]:
    """Of a prompt that names a finding; of another there is none."""
    tokens = read_words(prompt)
    phrases = find_phrases(tokens)
    if not phrases:
        return []
    findings = list({tuple(_wordings(tokens, phrase)): None for phrase in phrases})
    views = {VIEW_WORDS[token.lower]: None for token in tokens if token.lower in VIEW_WORDS}
    viewed = [_listed("".join(f"{view} view, " for view in views), findings)] if views else []
    return [_reworded(prompt, tokens, phrases), *viewed, _listed("", findings)]


def _listed(lead: str, findings: Sequence[Sequence[str]]) -> _Form:
    """Findings behind one another."""
    return _Form([lead, *[", "] * (len(findings) - 1), ""], findings, [range(len(findings))])


def _reworded(prompt: str, tokens: Sequence[Token], phrases: Sequence[Phrase]) -> _Form:
    """The whole prompt; clauses that name findings change places with their neighbours that do so too."""
    kinds = word_kinds(tokens)
    clauses = [list(words) for _, words in itertools.groupby(range(len(tokens)), lambda i: tokens[i].clause)]
    gaps: list[str] = []
    wordings: list[list[str]] = []
    runs, position = [range(0)], 0
    for words in clauses:
        inside = [phrase for phrase in phrases if phrase.first in words]
        told = {kinds[i] for i in words}
        if not inside or not told <= {"finding", "side", "other"}:
            if told != {"identifier"}:
                # What names no finding may speak of the one before it ("…, unchanged"), which therefore stays.
                runs[-1] = range(runs[-1].start, len(wordings) - 1)
            runs.append(range(len(wordings), len(wordings)))
            continue
        first = words[1] if tokens[words[0]].lower in CONNECTORS else words[0]
        start, end = tokens[first].start, tokens[words[-1]].end
        bare = len(inside) == 1 and all(kinds[i] != "other" for i in words if i >= first)
        gaps.append(prompt[position:start])
        wordings.append(_wordings(tokens, inside[0]) if bare else [prompt[start:end]])
        runs[-1] = range(runs[-1].start, len(wordings))
        position = end
    return _Form([*gaps, prompt[position:]], wordings, runs, parse_prompt(prompt) if find_negated(tokens) else None)


def _wordings(tokens: Sequence[Token], phrase: Phrase) -> list[str]:
    """How a finding may be said with the sides that its clause gives it."""
    sides = sorted(str(side) for side in sides_of(tokens, tokens[phrase.first].clause))
    named = SAME_MEANING[" ".join(token.lower for token in tokens[phrase.first : phrase.last])]
    if not sides:
        return list(named)
    if len(sides) > 1:
        return [f"bilateral {name}" for name in named]
    return [*(f"{sides[0]} {name}" for name in named), *(f"{name} on the {sides[0]}" for name in named)]
