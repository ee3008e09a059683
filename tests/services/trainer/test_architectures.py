"""The tiny model and its tokenizer: sizes, schedule, and the same weights for the same seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from services.trainer.architectures import TINY_TOKENS, TINY_WIDTH, build_tiny, stable_diffusion_schedule, train_tokenizer
from tests.denoisers import PROMPTS

if TYPE_CHECKING:
    from shared.diffusion.model import Model


def parameters(module: torch.nn.Module) -> int:
    """How many weights."""
    return sum(p.numel() for p in module.parameters())


def test_tiny_model_has_its_size(tiny: Model) -> None:
    assert 2_000_000 < parameters(tiny.unet) < 2_500_000
    assert 200_000 < parameters(tiny.vae) < 260_000
    assert 100_000 < parameters(tiny.text_encoder) < 250_000


@pytest.mark.parametrize("image_size", [32, 64, 128])
def test_latents_are_a_quarter_of_the_image(image_size: int) -> None:
    model = build_tiny(PROMPTS, image_size)
    assert model.latent_shape == (4, image_size // 4, image_size // 4)
    assert model.image_size == image_size
    assert model.to_latents(torch.rand(1, image_size, image_size)).shape == (1, *model.latent_shape)
    assert model.to_images(torch.zeros(1, *model.latent_shape)).shape == (1, image_size, image_size)


def test_same_seed_and_prompts_build_the_same_model() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(build_tiny(PROMPTS, 32))
    first, again = models
    for ours, theirs in ((first.unet, again.unet), (first.vae, again.vae), (first.text_encoder, again.text_encoder)):
        assert all(torch.equal(left, right) for left, right in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert first.tokenizer.get_vocab() == again.tokenizer.get_vocab()


def test_schedule_is_that_of_stable_diffusion_and_holds_no_notes() -> None:
    schedule = stable_diffusion_schedule()
    assert (schedule["beta_schedule"], schedule["beta_start"], schedule["beta_end"]) == ("scaled_linear", 0.00085, 0.012)
    assert (schedule["timestep_spacing"], schedule["steps_offset"], schedule["clip_sample"]) == ("leading", 1, False)
    assert schedule["prediction_type"] == "epsilon"
    assert [name for name in schedule if name.startswith("_")] == []


def test_window_and_width_are_those_of_the_constants(tiny: Model) -> None:
    assert tiny.token_limit == tiny.tokenizer.model_max_length == TINY_TOKENS
    assert tiny.text_encoder.config.hidden_size == tiny.unet.config.cross_attention_dim == TINY_WIDTH


def test_tokenizer_marks_begin_and_end_and_splits_digits() -> None:
    tokenizer = train_tokenizer(PROMPTS)
    ids = tokenizer("exam 482")["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.convert_ids_to_tokens(ids[-4:-1]) == ["4</w>", "8</w>", "2</w>"]


def test_training_words_become_few_tokens() -> None:
    tokenizer = train_tokenizer(PROMPTS * 5)
    assert tokenizer.convert_ids_to_tokens(tokenizer("pleural effusion")["input_ids"][1:-1]) == ["pleural</w>", "effusion</w>"]


@pytest.mark.parametrize("text", ["Zyxwv", "größe", "心", "a\tb\n c", "½ & <x>", "'s don't"])
def test_any_text_is_read_without_unknown_tokens(text: str) -> None:
    tokenizer = train_tokenizer(PROMPTS)
    ids = tokenizer(text)["input_ids"][1:-1]
    assert ids
    assert tokenizer.eos_token_id not in ids
    assert max(ids) < len(tokenizer)


def test_different_texts_have_different_tokens() -> None:
    tokenizer = train_tokenizer(PROMPTS)
    texts = ["left effusion", "right effusion", "exam 12", "exam 21", "größe", "grosse"]
    assert len({tuple(tokenizer(text)["input_ids"]) for text in texts}) == len(texts)


def test_vocabulary_holds_every_byte_and_the_markers_once() -> None:
    vocabulary = train_tokenizer(PROMPTS).get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert sum(word in vocabulary for word in ("<|startoftext|>", "<|endoftext|>")) == 2
    assert len([word for word in vocabulary if len(word.removesuffix("</w>")) == 1]) == 512
