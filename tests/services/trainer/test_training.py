"""Training: what moves, what is reported, and the same weights for the same seed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from services.trainer import training
from services.trainer.denoising_loss import Recipe, cache_latents
from services.trainer.training import AutoencoderLoss, train_autoencoder, train_denoiser
from shared.diffusion.denoise import sample
from shared.diffusion.guidance import ClassifierFreeGuidance
from shared.diffusion.noise import draw_noise
from shared.diffusion.ranks import Ranks
from tests.denoisers import IMAGE_SIZE, PROMPTS, tiny_model
from tests.training_films import films

if TYPE_CHECKING:
    from shared.diffusion.model import Model

RECIPE = Recipe(steps=4, batch_size=4, learning_rate=1e-3, prompt_dropout=0.1, seed=0)
GOLDEN_LOSSES = [1.10461, 1.06336, 1.05570, 0.86127, 0.80031, 0.72268]


def quiet(_step: int, _total: int, _phase: str, _loss: Tensor) -> None:
    """No progress wanted."""


def trained(recipe: Recipe, seed: int = 0) -> tuple[Model, list[float]]:
    """A model after training, and its losses."""
    model, losses = tiny_model(seed), []
    train_denoiser(model, films(), recipe, lambda _step, _total, _phase, loss: losses.append(float(loss)))
    return model, losses


def weights(model: Model) -> list[Tensor]:
    """All that may have moved."""
    return [*model.unet.parameters(), *model.text_encoder.parameters()]


def equal(left: Model, right: Model) -> bool:
    """Whether every weight is the same, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(weights(left), weights(right), strict=True))


# ---------------------------------------------------------------- autoencoder


@pytest.fixture(scope="module")
def coded() -> tuple[Model, float, float]:
    """A model after a short training of its autoencoder; the first and the last loss."""
    model = tiny_model(1)
    losses: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "AUTOENCODER_STEPS", 25)
        train_autoencoder(model, films(), 0, lambda _step, _total, _phase, loss: losses.append(float(loss)))
    return model, losses[0], losses[-1]


def test_autoencoder_learns_and_its_latents_have_unit_variance(coded: tuple[Model, float, float]) -> None:
    model, first, last = coded
    assert last < 0.6 * first
    assert float(cache_latents(model, films()).std()) == pytest.approx(1.0, abs=1e-4)
    assert model.vae.config.scaling_factor != 0.18215


def test_autoencoder_training_reports_step_total_and_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "AUTOENCODER_STEPS", 3)
    seen: list[tuple[int, int, str]] = []
    train_autoencoder(tiny_model(), films(), 0, lambda step, total, phase, _loss: seen.append((step, total, phase)))
    assert seen == [(1, 3, "autoencoder"), (2, 3, "autoencoder"), (3, 3, "autoencoder")]


def test_scaling_is_applied_once_and_decoding_undoes_it(coded: tuple[Model, float, float]) -> None:
    model, _, _ = coded
    images = torch.from_numpy(films().images_NHW).float() / 255
    mean = model.vae.encode((images * 2 - 1)[:, None]).latent_dist.mean
    latents = model.to_latents(images)
    torch.testing.assert_close(latents, mean * model.vae.config.scaling_factor)
    assert float((model.to_images(latents) - images).abs().mean()) < 0.2


def test_shares_of_a_batch_have_its_mean_loss() -> None:
    model = tiny_model()
    whole = AutoencoderLoss(model, films(), 0, slice(None))
    shares = [AutoencoderLoss(model, films(), 0, Ranks(rank, 2).share(training.AUTOENCODER_BATCH)) for rank in range(2)]
    for step in range(2):
        expected = float(whole(step).detach())
        assert np.mean([float(share(step).detach()) for share in shares]) == pytest.approx(expected, rel=1e-5)


def test_autoencoder_loss_goes_on_from_its_state() -> None:
    model = tiny_model()
    first, second = AutoencoderLoss(model, films(), 0, slice(None)), AutoencoderLoss(model, films(), 9, slice(None))
    first(0)
    second.restore(first.state().copied())
    assert torch.equal(first(1), second(1))


# ---------------------------------------------------------------- the step


def test_same_seed_gives_identical_weights_another_seed_others() -> None:
    first, again, other = trained(RECIPE)[0], trained(RECIPE)[0], trained(replace(RECIPE, seed=1))[0]
    assert equal(first, again)
    assert not equal(first, other)


def test_training_moves_denoiser_and_text_encoder_and_leaves_the_autoencoder() -> None:
    before, (after, _) = tiny_model(), trained(RECIPE)
    assert not torch.equal(before.unet.conv_in.weight, after.unet.conv_in.weight)
    assert not torch.equal(before.text_encoder.get_input_embeddings().weight, after.text_encoder.get_input_embeddings().weight)
    assert all(torch.equal(a, b) for a, b in zip(before.vae.parameters(), after.vae.parameters(), strict=True))
    assert not after.unet.training
    assert not after.text_encoder.training


def test_training_reports_step_total_and_phase() -> None:
    seen: list[tuple[int, int, str]] = []
    train_denoiser(tiny_model(), films(), RECIPE, lambda step, total, phase, _loss: seen.append((step, total, phase)))
    assert seen == [(step, 4, "denoiser") for step in (1, 2, 3, 4)]


def test_progress_that_raises_stops_training() -> None:
    def stop(step: int, _total: int, _phase: str, _loss: Tensor) -> None:
        if step == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_denoiser(tiny_model(), films(), replace(RECIPE, steps=1000), stop)


def test_empty_prompt_is_encoded_anew_after_training() -> None:
    model = tiny_model()
    before = model.unconditional_1LE
    train_denoiser(model, films(), RECIPE, quiet)
    assert not torch.equal(model.unconditional_1LE, before)
    torch.testing.assert_close(model.unconditional_1LE, model.encode([""]).embeddings_BLE)


def test_short_loss_curve_is_the_recorded_one() -> None:
    # Golden: batch order, noise, timesteps, dropout, optimiser and average all enter. A change that is said to do nothing keeps it.
    _, losses = trained(replace(RECIPE, steps=6))
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=2e-3)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_models_with_and_without_dropout_train_and_sample_unconditionally(dropout: float) -> None:
    model, losses = trained(replace(RECIPE, prompt_dropout=dropout, steps=40, learning_rate=3e-3))
    assert np.mean(losses[-10:]) < 0.8 * losses[0]
    noise = draw_noise([1, 2], model.latent_shape)
    drawn: dict[str, Tensor] = {}
    for name, prompt, scale in (("unconditional", "", 1.0), ("conditional", PROMPTS[3], 1.0), ("guided", PROMPTS[3], 3.0)):
        latents = sample(model, model.encode([prompt, prompt]), noise, steps=5, guidance=ClassifierFreeGuidance(scale))
        images = model.to_images(latents)
        assert images.shape == (2, IMAGE_SIZE, IMAGE_SIZE)
        assert bool(latents.isfinite().all())
        drawn[name] = latents
    assert not torch.equal(drawn["unconditional"], drawn["conditional"])
    assert not torch.equal(drawn["conditional"], drawn["guided"])


# ---------------------------------------------------------------- filters and timesteps


def test_filter_that_keeps_all_changes_nothing() -> None:
    keep_all = trained(replace(RECIPE, batch_filter=lambda _model: lambda batch: torch.ones_like(batch.losses_B, dtype=torch.bool)))[0]
    assert equal(keep_all, trained(RECIPE)[0])


def test_filter_that_keeps_nothing_trains_nothing() -> None:
    model, losses = trained(replace(RECIPE, batch_filter=lambda _model: lambda batch: torch.zeros_like(batch.losses_B, dtype=torch.bool)))
    assert losses == []
    assert equal(model, tiny_model())


def test_parameter_selection_decides_what_moves() -> None:
    def text_only(model: Any) -> list[torch.nn.Module]:
        model.unet.requires_grad_(False)
        return [model.text_encoder]

    model = trained(replace(RECIPE, parameters=text_only))[0]
    before = tiny_model()
    assert all(torch.equal(a, b) for a, b in zip(before.unet.parameters(), model.unet.parameters(), strict=True))
    assert not torch.equal(before.text_encoder.get_input_embeddings().weight, model.text_encoder.get_input_embeddings().weight)
