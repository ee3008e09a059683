"""What a step keeps, counted without memory: the same bytes as a real step keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from services.trainer.activation_memory import Networks
from tests.denoisers import stable_diffusion_model, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from shared.diffusion.model import Model


def networks(model: Model) -> Networks:
    return Networks.of(model, 32)


def really_kept(model: Model, batch: int, *, bf16: bool) -> int:
    """Bytes that a real pass of the denoiser and of the text encoder saves, weights aside."""
    known = {p.data_ptr() for part in (model.unet, model.text_encoder) for p in part.parameters()}
    held: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    for part in (model.unet, model.text_encoder):
        part.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        told = torch.zeros(batch, model.token_limit, int(model.text_encoder.config.hidden_size))
        kept = [model.unet(torch.zeros(batch, *model.latent_shape), torch.zeros(batch, dtype=torch.long), encoder_hidden_states=told)]
        kept.append(model.text_encoder(torch.zeros(batch, model.token_limit, dtype=torch.long)))
    return sum(storage.nbytes() for storage in held.values())


@pytest.mark.parametrize("bf16", [False, True])
def test_counted_bytes_are_those_of_a_real_step(bf16: bool) -> None:
    model = tiny_model()
    counted = networks(model).step_bytes(3, bf16=bf16, checkpointing=False, text_learns=True)
    assert counted == pytest.approx(really_kept(model, 3, bf16=bf16), rel=0.02)


def test_stable_diffusions_shape_is_counted_from_its_folder(tmp_path: Path) -> None:
    model = stable_diffusion_model("v_prediction", tmp_path)
    described = Networks.described(tmp_path, 32)
    parts = {"text_encoder": model.text_encoder, "unet": model.unet, "vae": model.vae}
    assert described.parameters() == {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    counted = described.step_bytes(2, bf16=False, checkpointing=False, text_learns=True)
    assert counted == pytest.approx(really_kept(model, 2, bf16=False), rel=0.02)
    assert described.latent_bytes == 4 * 4 * 8 * 8
    assert described.embedding_bytes == 4 * 77 * 32


def test_each_way_to_save_memory_saves_some_and_batches_add_up() -> None:
    tiny = networks(tiny_model())

    def bytes_of(batch: int, **ways: bool) -> int:
        return tiny.step_bytes(batch, **{"bf16": False, "checkpointing": False, "text_learns": True, **ways})

    plain = bytes_of(8)
    assert bytes_of(16) == pytest.approx(2 * plain, rel=0.01)
    assert bytes_of(8, checkpointing=True) < 0.7 * plain
    assert bytes_of(8, text_learns=False) < plain
    assert bytes_of(64, bf16=True) < 0.7 * bytes_of(64)


def test_autoencoder_is_counted_too() -> None:
    tiny = networks(tiny_model())
    assert tiny.autoencoder_bytes(4) == pytest.approx(4 * tiny.autoencoder_bytes(1), rel=0.05)
    assert tiny.encoding_bytes(2) == 2 * 4 * 16 * 32 * 32  # the first block's 16 channels at full size


def test_counting_leaves_the_streams_of_random_numbers(tmp_path: Path) -> None:
    del tmp_path
    tiny = networks(tiny_model())
    before = torch.random.get_rng_state()
    tiny.step_bytes(1, bf16=False, checkpointing=True, text_learns=True)
    assert torch.equal(torch.random.get_rng_state(), before)
