"""One step's loss: what is shown, what is dropped, what counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from services.trainer.denoising_loss import DenoisingLoss, Recipe, cache_latents, uniform_timesteps
from services.trainer.training_set import TrainingSet
from tests.denoisers import PROMPTS, tiny_model
from tests.training_films import films

RECIPE = Recipe(steps=4, batch_size=4, learning_rate=1e-3, prompt_dropout=0.1, seed=0)


def test_cached_latents_do_not_depend_on_the_batch() -> None:
    model = tiny_model()
    torch.testing.assert_close(cache_latents(model, films(), batch_size=1), cache_latents(model, films()), rtol=0, atol=1e-4)


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
    drawn = uniform_timesteps(10_000, 1000, torch.Generator().manual_seed(0))
    assert (int(drawn.min()), int(drawn.max())) == (0, 999)
    assert np.histogram(drawn.numpy(), bins=10, range=(0, 1000))[0] == pytest.approx([1000] * 10, rel=0.12)
