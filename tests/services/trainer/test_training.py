"""The training step: what is shown how often, what is dropped, what is learnt, and the same weights for the same seed."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from services.trainer import training
from services.trainer.training import DenoisingLoss, Recipe, TrainingSet, cache_latents, train_autoencoder, train_denoiser
from shared.diffusion.denoise import sample
from shared.diffusion.guidance import ClassifierFreeGuidance
from shared.diffusion.noise import draw_noise
from shared.errors import DatasetError
from tests.denoisers import IMAGE_SIZE, PROMPTS, tiny_model

if TYPE_CHECKING:
    from shared.diffusion.model import Model

RECIPE = Recipe(steps=4, batch_size=4, learning_rate=1e-3, prompt_dropout=0.1, seed=0)
GOLDEN_LOSSES = [1.10461, 1.06336, 1.05570, 0.86127, 0.80031, 0.72268]


def films(repeats: tuple[int, ...] = (1, 1, 1, 5)) -> TrainingSet:
    """Four soft pictures with their prompts."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4, 4, 4))
    images = np.kron(coarse, np.ones((IMAGE_SIZE // 4, IMAGE_SIZE // 4))).astype(np.uint8)
    return TrainingSet(images, PROMPTS, np.array(repeats))


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


# ---------------------------------------------------------------- which film when


@pytest.mark.parametrize("batch_size", [1, 3, 4, 8, 20])
def test_each_film_is_shown_its_repeats_in_every_epoch(batch_size: int) -> None:
    repeats = (1, 2, 0, 5)
    visits = np.concatenate(list(islice(films(repeats).visits(batch_size, np.random.default_rng(0)), 24)))
    for epoch in range(len(visits) // 8):
        assert np.bincount(visits[epoch * 8 : epoch * 8 + 8], minlength=4).tolist() == list(repeats)


def test_batches_are_full_and_run_across_epochs() -> None:
    batches = list(islice(films().visits(3, np.random.default_rng(0)), 10))
    assert [len(batch) for batch in batches] == [3] * 10


def test_epochs_are_shuffled_anew_and_follow_their_generator() -> None:
    first, again, other = (list(islice(films().visits(8, np.random.default_rng(seed)), 3)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


def test_nothing_to_show_is_an_error_not_a_hang() -> None:
    with pytest.raises(DatasetError, match="no film is to be shown"):
        next(films((0, 0, 0, 0)).visits(2, np.random.default_rng(0)))


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


def test_cached_latents_do_not_depend_on_the_batch(coded: tuple[Model, float, float]) -> None:
    model, _, _ = coded
    torch.testing.assert_close(cache_latents(model, films(), batch_size=1), cache_latents(model, films()), rtol=0, atol=1e-4)


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


def test_loss_is_that_of_a_model_that_predicts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setattr(model, "predict_noise", lambda x, _t, _e: torch.zeros_like(x))
    losses = [float(DenoisingLoss(model, films(), replace(RECIPE, seed=seed, batch_size=32))(0) or 0) for seed in range(3)]
    assert np.mean(losses) == pytest.approx(1.0, abs=0.05)  # E‖ε‖² a value


def test_perfect_prediction_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub that knows z_0 answers ε exactly: z_t is made from the schedule and the cached latents as it should be."""
    model = tiny_model()
    one = TrainingSet(films().images_NHW[:1], PROMPTS[:1], np.array([1]))
    z_0 = cache_latents(model, one)

    def knowing(z_t: Tensor, t: Tensor, _embeddings: Tensor) -> Tensor:
        alpha_bar = model.alphas_cumprod[t].view(-1, 1, 1, 1)
        return (z_t - alpha_bar.sqrt() * z_0) / (1 - alpha_bar).sqrt()

    monkeypatch.setattr(model, "predict_noise", knowing)
    assert float(DenoisingLoss(model, one, RECIPE)(0) or 1) < 1e-6


# ---------------------------------------------------------------- prompts


def told(recipe: Recipe, batches: int = 40) -> tuple[Tensor, Tensor]:
    """Token ids of many visits, and those of the empty prompt."""
    model = tiny_model()
    loss = DenoisingLoss(model, films(), recipe)
    rows = np.arange(4)
    return torch.stack([loss._captions(rows) for _ in range(batches)]), model.tokenize([""])[0]


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5, 1.0])
def test_prompts_are_dropped_as_often_as_asked(dropout: float) -> None:
    tokens, empty = told(replace(RECIPE, prompt_dropout=dropout), batches=100)
    share = float((tokens == empty).all(-1).float().mean())
    assert share == pytest.approx(dropout, abs=0.0 if dropout in {0.0, 1.0} else 0.08)


def test_kept_prompts_are_the_films_own() -> None:
    tokens, _ = told(replace(RECIPE, prompt_dropout=0.0), batches=1)
    assert torch.equal(tokens[0], tiny_model().tokenize(PROMPTS))


def test_caption_transforms_are_applied_in_order_at_each_visit() -> None:
    seen: list[list[str]] = []

    def shout(prompts: list[str], _generator: np.random.Generator) -> list[str]:
        return [prompt + " acute" for prompt in prompts]

    def record(prompts: list[str], _generator: np.random.Generator) -> list[str]:
        seen.append(prompts)
        return prompts

    tokens, _ = told(replace(RECIPE, prompt_dropout=0.0, captions=(shout, record)), batches=2)
    assert seen == [[prompt + " acute" for prompt in PROMPTS]] * 2
    assert torch.equal(tokens[1], tiny_model().tokenize([prompt + " acute" for prompt in PROMPTS]))


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


def test_filter_sees_losses_and_timesteps_and_masks_the_mean() -> None:
    seen: dict[str, Tensor] = {}

    def lowest_two(losses_B: Tensor, timesteps_B: Tensor) -> Tensor:
        seen.update(losses=losses_B, timesteps=timesteps_B)
        return losses_B <= losses_B.sort().values[1]

    loss = DenoisingLoss(tiny_model(), films(), replace(RECIPE, batch_filter=lowest_two))(0)
    assert loss is not None
    assert not seen["losses"].requires_grad
    assert seen["losses"].shape == seen["timesteps"].shape == (4,)
    assert float(loss.detach()) == pytest.approx(float(seen["losses"].sort().values[:2].mean()), rel=1e-6)


def test_filter_that_keeps_all_changes_nothing() -> None:
    keep_all = trained(replace(RECIPE, batch_filter=lambda losses, _t: torch.ones_like(losses, dtype=torch.bool)))[0]
    assert equal(keep_all, trained(RECIPE)[0])


def test_filter_that_keeps_nothing_trains_nothing() -> None:
    model, losses = trained(replace(RECIPE, batch_filter=lambda losses, _t: torch.zeros_like(losses, dtype=torch.bool)))
    assert losses == []
    assert equal(model, tiny_model())


def test_timestep_density_decides_the_noise_level() -> None:
    seen: list[Tensor] = []

    def late(count: int, total: int, generator: torch.Generator) -> Tensor:
        return torch.randint(total - 10, total, (count,), generator=generator)

    def watch(losses: Tensor, timesteps: Tensor) -> Tensor:
        seen.append(timesteps)
        return torch.ones_like(losses, dtype=torch.bool)

    DenoisingLoss(tiny_model(), films(), replace(RECIPE, timesteps=late, batch_filter=watch))(0)
    assert 990 <= int(seen[0].min()) <= int(seen[0].max()) < 1000


def test_timesteps_are_uniform_by_default() -> None:
    drawn = training.uniform_timesteps(10_000, 1000, torch.Generator().manual_seed(0))
    assert (int(drawn.min()), int(drawn.max())) == (0, 999)
    assert np.histogram(drawn.numpy(), bins=10, range=(0, 1000))[0] == pytest.approx([1000] * 10, rel=0.12)


def test_parameter_selection_decides_what_moves() -> None:
    def text_only(model: Any) -> list[torch.nn.Module]:
        model.unet.requires_grad_(False)
        return [model.text_encoder]

    model = trained(replace(RECIPE, parameters=text_only))[0]
    before = tiny_model()
    assert all(torch.equal(a, b) for a, b in zip(before.unet.parameters(), model.unet.parameters(), strict=True))
    assert not torch.equal(before.text_encoder.get_input_embeddings().weight, model.text_encoder.get_input_embeddings().weight)
