"""Captions that differ from visit to visit."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

from services.trainer.caption_rules import EmbeddingNoise, RandomCaption, RandomTokens, WordRepetition
from services.trainer.caption_transforms import (
    CaptionTransform,
    RandomCaptions,
    RandomWords,
    RepeatedWords,
    meaningless_words,
    open_caption_transform,
)
from shared.errors import InvalidRequestError
from tests.denoisers import PROMPTS, tiny_model

WORDS = ["q", "w", "z"]
PROMPT = "AP view, left pleural effusion"


def visits(transform: CaptionTransform, prompt: str = PROMPT, count: int = 2000) -> list[str]:
    """What a caption becomes at many visits."""
    return transform([prompt] * count, np.random.default_rng(0))


@pytest.mark.parametrize("transform", [RandomCaptions(0.1, 4, WORDS), RandomWords(0.1, 2, WORDS), RepeatedWords(0.1, 2)])
def test_captions_change_as_often_as_asked_and_the_same_for_a_seed(transform: CaptionTransform) -> None:
    told = visits(transform)
    assert sum(prompt != PROMPT for prompt in told) / len(told) == pytest.approx(0.1, abs=0.02)
    assert visits(transform) == told


def test_random_caption_says_nothing_of_the_film() -> None:
    told = visits(RandomCaptions(1.0, 4, WORDS))
    assert all(len(prompt.split()) == 4 and set(prompt.split()) <= set(WORDS) for prompt in told)
    assert len(set(told)) == 81  # 3⁴


def test_random_words_are_inserted_anywhere_and_the_caption_stays_in_order() -> None:
    told = [prompt.split() for prompt in visits(RandomWords(1.0, 2, WORDS))]
    assert all(len(words) == 7 for words in told)
    assert all([word for word in words if word not in WORDS] == PROMPT.split() for words in told)
    assert {place for words in told for place, word in enumerate(words) if word in WORDS} == set(range(7))


def test_repeated_words_are_the_captions_own() -> None:
    told = [prompt.split() for prompt in visits(RepeatedWords(1.0, 2))]
    assert all(len(words) == 7 and set(words) == set(PROMPT.split()) for words in told)
    assert visits(RepeatedWords(1.0, 2), prompt="", count=3) == ["", "", ""]


def test_random_words_tell_nothing() -> None:
    model = tiny_model()
    words = meaningless_words(model, PROMPTS)
    assert len(words) > 10
    assert not {"x", "chest", "effusion", "edema", "no"} & set(words)  # of the prompts, x of X-ray
    assert all(model.count_tokens([word]) == [3] for word in words)  # one token between the marks
    vocabulary = {"edema</w>": 1, "consolidation</w>": 2, "sofa</w>": 3, "so": 4, "late</w>": 49_400}
    with mock.patch.object(model.tokenizer, "get_vocab", return_value=vocabulary):
        assert meaningless_words(model, ["no finding"]) == ["sofa"]
        with pytest.raises(InvalidRequestError, match="nothing to insert"):
            meaningless_words(model, ["a sofa"])


def test_rules_become_transforms_with_the_published_constants() -> None:
    model = tiny_model()
    words = meaningless_words(model, PROMPTS)
    rules = (RandomCaption(kind="random_caption"), RandomTokens(kind="random_tokens"), WordRepetition(kind="word_repetition"))
    made = [opens(model, PROMPTS) for rule in rules if (opens := open_caption_transform(rule)) is not None]
    assert made == [RandomCaptions(0.1, 4, words), RandomWords(0.1, 2, words), RepeatedWords(0.1, 2)]
    assert open_caption_transform(EmbeddingNoise(kind="embedding_noise")) is None
    assert EmbeddingNoise(kind="embedding_noise").scale == 0.1
