"""Captions that differ from visit to visit, so that no caption becomes the key of one film (Somepalli et al. 2023).

The published rules decode random token ids, which may be several words, or none. Here a random word is a whole word of the tokenizer
that no prompt of the data set and no name of a finding holds: it says nothing of the film.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from services.trainer.caption_rules import CaptionRule, EmbeddingNoise
from shared.diffusion.model import Model
from shared.errors import InvalidRequestError
from shared.imaging.clauses import LEXICON

PUBLISHED_IDS: Final = 49_400  # of CLIP's vocabulary those below: its last ones are marks
_WORD_END: Final = "</w>"
_LETTERS: Final = re.compile("[a-z]+")


class CaptionTransform(Protocol):
    """What the caption says at this visit."""

    def __call__(self, prompts: list[str], generator: np.random.Generator) -> list[str]:
        """The prompts to train on in place of the stored ones."""
        ...


@dataclass(frozen=True)
class RandomCaptions:
    """Replaces a caption, now and then, by random words."""

    probability: float
    count: int
    words: Sequence[str]

    def __call__(self, prompts: list[str], generator: np.random.Generator) -> list[str]:
        """Other captions, or the same."""
        return [
            " ".join(_drawn(self.words, self.count, generator)) if generator.random() < self.probability else prompt for prompt in prompts
        ]


@dataclass(frozen=True)
class RandomWords:
    """Inserts random words, now and then, at random places."""

    probability: float
    count: int
    words: Sequence[str]

    def __call__(self, prompts: list[str], generator: np.random.Generator) -> list[str]:
        """Longer captions, or the same."""
        return [
            _inserted(prompt, _drawn(self.words, self.count, generator), generator) if generator.random() < self.probability else prompt
            for prompt in prompts
        ]


@dataclass(frozen=True)
class RepeatedWords:
    """Inserts words of the caption itself, now and then, at random places."""

    probability: float
    count: int

    def __call__(self, prompts: list[str], generator: np.random.Generator) -> list[str]:
        """Longer captions, or the same; one without words has none to repeat."""
        return [
            _inserted(prompt, _drawn(own, self.count, generator), generator)
            if (own := prompt.split()) and generator.random() < self.probability
            else prompt
            for prompt in prompts
        ]


def open_caption_transform(rule: CaptionRule) -> Callable[[Model, Sequence[str]], CaptionTransform] | None:
    """What makes the transform that a training job asks for; None of noise on embeddings, which changes no caption."""
    if isinstance(rule, EmbeddingNoise):
        return None

    def open_for(model: Model, prompts: Sequence[str]) -> CaptionTransform:
        if rule.kind == "word_repetition":
            return RepeatedWords(rule.probability, rule.words)
        words = meaningless_words(model, prompts)
        return (RandomCaptions if rule.kind == "random_caption" else RandomWords)(rule.probability, rule.words, words)

    return open_for


def meaningless_words(model: Model, prompts: Sequence[str]) -> list[str]:
    """The tokenizer's whole words, in its order, without those of the prompts and of findings' names."""
    telling = {word for text in {*prompts, *LEXICON} for word in _LETTERS.findall(text.lower())}
    whole = (token.removesuffix(_WORD_END) for token, number in _by_number(model) if token.endswith(_WORD_END) and number < PUBLISHED_IDS)
    words = [word for word in whole if _LETTERS.fullmatch(word) and word not in telling]
    if not words:
        raise InvalidRequestError("The tokenizer has no word that the prompts do not use; there is nothing to insert.", field="captions")
    return words


def _by_number(model: Model) -> list[tuple[str, int]]:
    return sorted(model.tokenizer.get_vocab().items(), key=lambda entry: entry[1])


def _drawn(words: Sequence[str], count: int, generator: np.random.Generator) -> list[str]:
    return [words[place] for place in generator.integers(len(words), size=count)]


def _inserted(prompt: str, words: Sequence[str], generator: np.random.Generator) -> str:
    """The prompt with each word at a place of its own; what it said stays in order."""
    told = prompt.split()
    for word in words:
        told.insert(int(generator.integers(len(told) + 1)), word)
    return " ".join(told)
