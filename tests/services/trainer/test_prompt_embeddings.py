"""What the denoiser is told: encoded at every visit, or once."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch

from services.trainer.prompt_embeddings import PromptEmbeddings
from tests.denoisers import PROMPTS, tiny_model

TWICE = [*PROMPTS, PROMPTS[0], ""]
ROWS = np.array([4, 1, 0, 5])
KEPT = torch.tensor([False, False, False, False])


def test_each_distinct_prompt_is_encoded_once_and_the_empty_one_with_them() -> None:
    model = tiny_model()
    with mock.patch.object(type(model.text_encoder), "forward", autospec=True, side_effect=type(model.text_encoder).forward) as forward:
        embeddings = PromptEmbeddings(model, TWICE, text_encoder="frozen", cached=True)
        filled = sum(len(call.args[1]) for call in forward.call_args_list)
        embeddings(ROWS, KEPT)
        assert (filled, forward.call_count) == (len(PROMPTS) + 1, 1)
    assert embeddings.embeddings_KLE is not None
    assert embeddings.embeddings_KLE.shape == (5, 64, 64)


def test_cache_answers_what_the_encoder_answers() -> None:
    model = tiny_model()
    dropped = torch.tensor([False, True, False, False])
    cached, fresh = (PromptEmbeddings(model, TWICE, text_encoder="frozen", cached=cached)(ROWS, dropped) for cached in (True, False))
    torch.testing.assert_close(cached, fresh, rtol=0, atol=1e-6)
    assert torch.equal(cached[1], cached[3])  # a dropped prompt is the empty one
    assert not cached.requires_grad
    assert not fresh.requires_grad


def test_learning_encoder_is_asked_at_every_visit_and_gets_gradients() -> None:
    embeddings = PromptEmbeddings(tiny_model(), TWICE, text_encoder="train", cached=True)
    assert embeddings.embeddings_KLE is None
    assert embeddings(ROWS, KEPT).requires_grad


@pytest.mark.parametrize("text_encoder", ["train", "frozen"])
def test_transformed_prompts_are_encoded_anew(text_encoder: str) -> None:
    model = tiny_model()
    embeddings = PromptEmbeddings(model, TWICE, text_encoder=text_encoder, cached=True)  # type: ignore[arg-type]
    told = embeddings(ROWS[:1], KEPT[:1], ["another prompt"])
    torch.testing.assert_close(told, model.encode(["another prompt"]).embeddings_BLE, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cached", [True, False])
def test_empty_prompt_comes_as_often_as_asked(cached: bool) -> None:
    model = tiny_model()
    empty = PromptEmbeddings(model, TWICE, text_encoder="frozen", cached=cached).empty(3)
    torch.testing.assert_close(empty, model.unconditional_1LE.expand(3, -1, -1), rtol=0, atol=1e-6)
