"""What a training job is told of captions."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from services.trainer.caption_rules import MultipleCaptions
from services.trainer.training_spec import TrainingSpec


@pytest.mark.parametrize(
    "captions",
    [
        [{"kind": "random_tokens"}, {"kind": "random_tokens"}],
        [{"kind": "random_caption", "probability": 1.1}],
        [{"kind": "word_repetition", "words": 0}],
        [{"kind": "embedding_noise", "scale": 0}],
        [{"kind": "synonyms"}],
        [{"kind": "multiple", "count": 1}],
        [{"kind": "multiple", "probability": 0.5}],
        [{"kind": "scrub", "words": 2}],
    ],
)
def test_captions_are_sound_and_each_kind_once(captions: list[dict[str, Any]]) -> None:
    with pytest.raises(ValidationError, match="captions"):
        TrainingSpec.model_validate({"name": "a", "dataset": "ds_1", "captions": captions})


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [
        (["multiple", "scrub"], "scrub and then multiple must come first"),
        (["random_tokens", "scrub"], "scrub must come first"),
        (["embedding_noise", "multiple"], "multiple must come first"),
        (["scrub", "random_tokens", "multiple"], "scrub and then multiple must come first"),
    ],
)
def test_what_is_of_a_films_own_prompt_comes_first(kinds: list[str], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        TrainingSpec.model_validate({"name": "a", "dataset": "ds_1", "captions": [{"kind": kind} for kind in kinds]})


def test_all_kinds_go_together() -> None:
    kinds = ["scrub", "multiple", "word_repetition", "random_tokens", "random_caption", "embedding_noise"]
    spec = TrainingSpec.model_validate({"name": "a", "dataset": "ds_1", "captions": [{"kind": kind} for kind in kinds]})
    assert [rule.kind for rule in spec.captions] == kinds
    assert isinstance(spec.captions[1], MultipleCaptions)
    assert spec.captions[1].count == 20
