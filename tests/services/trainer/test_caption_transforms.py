"""Captions that differ from visit to visit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from services.trainer import caption_transforms
from services.trainer.caption_rules import EmbeddingNoise, MultipleCaptions, RandomCaption, RandomTokens, Scrub, WordRepetition
from services.trainer.caption_transforms import (
    CaptionTransform,
    InsertedWords,
    NowAndThen,
    OneOfSeveral,
    RandomWords,
    all_texts,
    caption_metrics,
    make_captions,
    meaningless_words,
    open_caption_transform,
)
from services.trainer.denoising_loss import DenoisingLoss, Recipe
from shared.errors import InvalidRequestError
from shared.imaging.captions import captions_of
from tests.denoisers import PROMPTS, tiny_model
from tests.training_films import films

WORDS = ["q", "w", "z"]
PROMPT = "AP view, left pleural effusion"


def visits(transform: CaptionTransform, prompt: str = PROMPT, count: int = 2000) -> list[str]:
    """What a caption becomes at many visits."""
    generator = np.random.default_rng(0)
    return [transform(prompt, generator) for _ in range(count)]


@pytest.mark.parametrize("change", [RandomWords(4, WORDS), InsertedWords(2, WORDS), InsertedWords(2)])
def test_captions_change_as_often_as_asked_and_the_same_for_a_seed(change: CaptionTransform) -> None:
    told = visits(NowAndThen(0.1, change))
    assert sum(prompt != PROMPT for prompt in told) / len(told) == pytest.approx(0.1, abs=0.02)
    assert visits(NowAndThen(0.1, change)) == told
    assert set(visits(NowAndThen(0.0, change))) == {PROMPT}


def test_random_caption_says_nothing_of_the_film() -> None:
    told = visits(RandomWords(4, WORDS))
    assert all(len(prompt.split()) == 4 and set(prompt.split()) <= set(WORDS) for prompt in told)
    assert len(set(told)) == 81  # 3⁴


def test_random_words_are_inserted_anywhere_and_the_caption_stays_in_order() -> None:
    told = [prompt.split() for prompt in visits(InsertedWords(2, WORDS))]
    assert all(len(words) == 7 for words in told)
    assert all([word for word in words if word not in WORDS] == PROMPT.split() for words in told)
    assert {place for words in told for place, word in enumerate(words) if word in WORDS} == set(range(7))


def test_repeated_words_are_the_captions_own() -> None:
    told = [prompt.split() for prompt in visits(InsertedWords(2))]
    assert all(len(words) == 7 and set(words) == set(PROMPT.split()) for words in told)
    assert visits(InsertedWords(2), prompt="", count=3) == ["", "", ""]


def test_random_words_tell_nothing() -> None:
    model = tiny_model()
    words = meaningless_words(model, PROMPTS)
    assert len(words) > 10
    assert not {"x", "chest", "effusion", "edema", "no"} & set(words)  # of the prompts, x of X-ray
    assert all(model.count_tokens([word]) == [3] for word in words)  # one token between the marks
    telling = ["edema</w>", "consolidation</w>", "left</w>", "bilateral</w>", "lateral</w>", "without</w>"]
    vocabulary = {token: number for number, token in enumerate(telling)} | {"sofa</w>": 30, "so": 40, "late</w>": 49_400}
    with mock.patch.object(model.tokenizer, "get_vocab", return_value=vocabulary):
        assert meaningless_words(model, ["no finding"]) == ["sofa"]
        with pytest.raises(InvalidRequestError, match="nothing to insert"):
            meaningless_words(model, ["a sofa"])


# ---------------------------------------------------------------- multiple captions


def test_each_caption_of_a_film_is_chosen_as_often_as_the_others() -> None:
    captions = make_captions(tiny_model(), PROMPTS, 20)
    choose = OneOfSeveral(captions)
    told = Counter(visits(choose, PROMPTS[3], 20_000))
    assert set(told) == set(captions[PROMPTS[3]])
    assert len(told) == 20
    share = np.array(list(told.values())) / 20_000
    assert share == pytest.approx(1 / 20, abs=0.006)  # 4 standard deviations of a share
    assert visits(choose, PROMPTS[2]) == visits(choose, PROMPTS[2])


def test_captions_are_made_once_for_a_prompt() -> None:
    captions = make_captions(tiny_model(), [*PROMPTS, PROMPTS[0], "a pear"], 20)
    assert captions == {prompt: captions_of(prompt, 20) for prompt in PROMPTS} | {"a pear": ["a pear"]}


def test_captions_beyond_the_encoders_window_are_none_but_the_own_one() -> None:
    model = tiny_model()
    with mock.patch.object(type(model), "token_limit", 20):
        captions = make_captions(model, PROMPTS, 20)
    lengths = {prompt: model.count_tokens(captions_of(prompt, 20)) for prompt in PROMPTS}
    assert lengths[PROMPTS[0]][0] > 20
    assert [model.count_tokens(several)[0] for several in captions.values()] == [lengths[prompt][0] for prompt in PROMPTS]
    assert all(max(model.count_tokens(several[1:])) <= 20 for several in captions.values())
    kept = [len(several) - 1 for several in captions.values()]
    assert kept == [sum(length <= 20 for length in of_prompt[1:]) for of_prompt in lengths.values()]


def test_metrics_count_captions_by_film() -> None:
    model, rules = tiny_model(), [Scrub(kind="scrub"), MultipleCaptions(kind="multiple")]
    told = [PROMPTS[0], PROMPTS[0], PROMPTS[1], "a pear"]
    assert [len(captions_of(prompt, 20)) for prompt in told] == [9, 9, 20, 1]
    assert caption_metrics(model, told, rules) == {"captions_per_film": 39 / 4}
    assert caption_metrics(model, told, rules[:1]) == {}


def test_all_texts_are_prompts_and_their_captions() -> None:
    told = [PROMPTS[0], "a pear"]
    assert list(all_texts(told, [WordRepetition(kind="word_repetition")])) == told
    assert Counter(all_texts(told, [MultipleCaptions(kind="multiple")])) == Counter([*captions_of(PROMPTS[0], 20), "a pear"])


def test_texts_of_films_with_one_prompt_count_each_and_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = mock.Mock(side_effect=captions_of)
    monkeypatch.setattr(caption_transforms, "captions_of", made)
    texts = all_texts([PROMPTS[0], "a pear", PROMPTS[0]], [MultipleCaptions(kind="multiple")])
    assert Counter(texts) == Counter([*2 * captions_of(PROMPTS[0], 20), "a pear"])
    assert [call.args[0] for call in made.call_args_list] == [PROMPTS[0], "a pear"]


def test_run_that_was_ended_chooses_on() -> None:
    opens = open_caption_transform(MultipleCaptions(kind="multiple"))
    assert opens is not None
    recipe = Recipe(8, 4, 1e-3, 0.1, seed=0, captions=(opens,))
    whole, resumed = (DenoisingLoss(tiny_model(), films(), replace(recipe, seed=seed)) for seed in (0, 1))
    begun = [whole.draw().prompts for _ in range(3)]
    kept = whole.state().copied()
    expected = [whole.draw().prompts for _ in range(6)]
    resumed.restore(kept)
    assert [resumed.draw().prompts for _ in range(6)] == expected
    assert begun != expected[:3]
    assert len({prompt for prompts in expected for prompt in prompts or ()}) > 4  # more than there are films


# ---------------------------------------------------------------- what a job is told


def test_rules_become_transforms_with_the_published_constants() -> None:
    model = tiny_model()
    words = meaningless_words(model, PROMPTS)
    rules = (RandomCaption(kind="random_caption"), RandomTokens(kind="random_tokens"), WordRepetition(kind="word_repetition"))
    made = [opens(model, PROMPTS) for rule in rules if (opens := open_caption_transform(rule)) is not None]
    assert made == [
        NowAndThen(0.1, RandomWords(4, words)),
        NowAndThen(0.1, InsertedWords(2, words)),
        NowAndThen(0.1, InsertedWords(2)),
    ]
    assert open_caption_transform(EmbeddingNoise(kind="embedding_noise")) is None
    assert open_caption_transform(Scrub(kind="scrub")) is None
    assert EmbeddingNoise(kind="embedding_noise").scale == 0.1
    opens = open_caption_transform(MultipleCaptions(kind="multiple", count=7))
    assert opens is not None
    assert opens(model, PROMPTS) == OneOfSeveral(make_captions(model, PROMPTS, 7))
