"""What a training job is told of captions."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from services.trainer.training_spec import TrainingSpec


@pytest.mark.parametrize(
    "captions",
    [
        [{"kind": "random_tokens"}, {"kind": "random_tokens"}],
        [{"kind": "random_caption", "probability": 1.1}],
        [{"kind": "word_repetition", "words": 0}],
        [{"kind": "embedding_noise", "scale": 0}],
        [{"kind": "synonyms"}],
    ],
)
def test_captions_are_sound_and_each_kind_once(captions: list[dict[str, Any]]) -> None:
    with pytest.raises(ValidationError, match="captions"):
        TrainingSpec.model_validate({"name": "a", "dataset": "ds_1", "captions": captions})
