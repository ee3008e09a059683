"""Captions that differ from visit to visit, so that no caption becomes the key of one film (Somepalli et al. 2023).

The published rules decode random token ids, which may be several words, or none. Here a random word is a whole word of the tokenizer
that no prompt of the data set and no name of a finding holds, and no side, view or negation: it says nothing of the film.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from services.trainer.caption_rules import CaptionRule, EmbeddingNoise, MultipleCaptions, Scrub
from shared.diffusion.model import Model
from shared.errors import InvalidRequestError
from shared.imaging.captions import captions_of
from shared.imaging.clauses import LEXICON, NEGATIONS, SIDE_WORDS, VIEW_WORDS

PUBLISHED_IDS: Final = 49_400  # of CLIP's vocabulary those below: its last ones are marks
_WORD_END: Final = "</w>"
_LETTERS: Final = re.compile("[a-z]+")

CaptionTransform = Callable[[str, np.random.Generator], str]
"""What a caption says at this visit."""

OpenTransform = Callable[[Model, Sequence[str]], CaptionTransform]
"""What makes a transform for a model and all prompts that it will learn from."""


@dataclass(frozen=True)
class NowAndThen:
    """Changes a caption at some of its visits."""

    probability: float
    change: CaptionTransform

    def __call__(self, prompt: str, generator: np.random.Generator) -> str:
        """Another caption, or the same."""
        return self.change(prompt, generator) if generator.random() < self.probability else prompt


@dataclass(frozen=True)
class RandomWords:
    """So many random words in the caption's place."""

    count: int
    words: Sequence[str]

    def __call__(self, _prompt: str, generator: np.random.Generator) -> str:
        """Another caption."""
        return " ".join(_drawn(self.words, self.count, generator))


@dataclass(frozen=True)
class InsertedWords:
    """So many words more at random places: random ones, or without any to draw from the caption's own."""

    count: int
    words: Sequence[str] | None = None

    def __call__(self, prompt: str, generator: np.random.Generator) -> str:
        """A longer caption; one without words has none to repeat."""
        words = prompt.split() if self.words is None else self.words
        return _inserted(prompt, _drawn(words, self.count, generator), generator) if words else prompt


@dataclass(frozen=True)
class OneOfSeveral:
    """One of a film's captions, each as often as the others."""

    captions: Mapping[str, Sequence[str]]  # by the film's prompt

    def __call__(self, prompt: str, generator: np.random.Generator) -> str:
        """One of them by lot."""
        several = self.captions[prompt]
        return several[int(generator.integers(len(several)))]


def open_caption_transform(rule: CaptionRule) -> OpenTransform | None:
    """What makes the transform that a training job asks for; None of rules that change nothing from visit to visit, or no caption."""
    if isinstance(rule, EmbeddingNoise | Scrub):
        return None
    if isinstance(rule, MultipleCaptions):
        return lambda model, prompts: OneOfSeveral(make_captions(model, prompts, rule.count))

    def open_for(model: Model, prompts: Sequence[str]) -> CaptionTransform:
        if rule.kind == "word_repetition":
            return NowAndThen(rule.probability, InsertedWords(rule.words))
        change = RandomWords if rule.kind == "random_caption" else InsertedWords
        return NowAndThen(rule.probability, change(rule.words, meaningless_words(model, prompts)))

    return open_for


def make_captions(model: Model, prompts: Sequence[str], count: int) -> dict[str, list[str]]:
    """Up to `count` captions of every distinct prompt: itself, and others that the text encoder can read to their end."""
    captions: dict[str, list[str]] = {}
    for prompt in dict.fromkeys(prompts):
        _, *others = made = captions_of(prompt, count)
        lengths = model.count_tokens(others) if others else []
        captions[prompt] = [made[0], *(other for other, length in zip(others, lengths, strict=True) if length <= model.token_limit)]
    return captions


def caption_metrics(model: Model, prompts: Sequence[str], rules: Sequence[CaptionRule]) -> dict[str, Any]:
    """What goes into a model's metrics: with multiple captions, of how many a film's is chosen on average."""
    metrics: dict[str, Any] = {}
    for rule in rules:
        if isinstance(rule, MultipleCaptions):
            captions = make_captions(model, prompts, rule.count)
            metrics["captions_per_film"] = sum(len(captions[prompt]) for prompt in prompts) / len(prompts)
    return metrics


def all_texts(prompts: Sequence[str], rules: Sequence[CaptionRule]) -> Iterator[str]:
    """All that captions may say of films, for a tokenizer to be learnt from; random words say nothing."""
    yield from prompts
    for rule in rules:
        if isinstance(rule, MultipleCaptions):
            others = {prompt: captions_of(prompt, rule.count)[1:] for prompt in dict.fromkeys(prompts)}
            for prompt in prompts:
                yield from others[prompt]


def meaningless_words(model: Model, prompts: Sequence[str]) -> list[str]:
    """The tokenizer's whole words, in its order, without those of the prompts and those that say what is seen, where, or that it is not."""
    telling = {word for text in {*prompts, *LEXICON, *SIDE_WORDS, *VIEW_WORDS, *NEGATIONS} for word in _LETTERS.findall(text.lower())}
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
