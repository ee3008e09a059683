"""Predictions of noised films: closed forms of denoisers that are known, one grid for all films, and its cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from shared.diffusion.noise import draw_noise
from shared.memorization.noised_films import grid_timesteps, look_at_noised
from tests.denoisers import PROMPTS, MemorizerModel, counted_forwards

if TYPE_CHECKING:
    from shared.diffusion.model import Model

FILMS = np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8)


@pytest.fixture
def memorizer(tiny: Model) -> Any:
    """Knows the first film by its prompt."""
    image_CHW = tiny.to_latents(torch.from_numpy(FILMS[:1]).float() / 255)[0]
    return MemorizerModel.of(tiny, image_CHW=image_CHW)


@pytest.mark.parametrize(("pairs", "timesteps"), [(1, [500]), (4, [125, 375, 625, 875]), (10, list(range(50, 1000, 100)))])
def test_grid_takes_the_middles_of_equal_parts(pairs: int, timesteps: list[int]) -> None:
    assert grid_timesteps(pairs, 1000) == timesteps


def test_film_that_is_known_by_heart_has_no_loss_and_the_closed_magnitude(memorizer: Any) -> None:
    seen = look_at_noised(memorizer, FILMS, [PROMPTS[0], PROMPTS[1], PROMPTS[0]], pairs=4, seed=5)
    assert seen.losses_NK[0] == pytest.approx(0, abs=1e-9)
    assert (seen.losses_NK[1:] > 1e-5).all()
    assert seen.magnitudes_NK[1] == pytest.approx(0, abs=1e-6)  # another prompt says nothing that the empty one does not
    alphas = memorizer.alphas_cumprod[[125, 375, 625, 875]]
    noises = draw_noise([5, 6, 7, 8], memorizer.latent_shape)
    for pair, (t, alpha_bar) in enumerate(zip([125, 375, 625, 875], alphas, strict=True)):
        z_t = alpha_bar.sqrt() * memorizer.image_CHW + (1 - alpha_bar).sqrt() * noises[pair]
        assert seen.magnitudes_NK[0, pair] == pytest.approx(float(memorizer.magnitude(z_t[None], t)), rel=1e-4)


def test_film_has_the_same_figures_alone_and_in_any_batch(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    together = look_at_noised(tiny, FILMS, PROMPTS[:3], pairs=2, seed=1)
    told: list[int] = []
    monkeypatch.setattr("shared.memorization.noised_films.batch_size", lambda _model: 2)
    cut = look_at_noised(tiny, FILMS, PROMPTS[:3], pairs=2, seed=1, on_batch=told.append)
    assert told == [2, 1]
    assert cut.losses_NK == pytest.approx(together.losses_NK, rel=1e-4)
    assert cut.magnitudes_NK == pytest.approx(together.magnitudes_NK, rel=1e-3)
    alone = look_at_noised(tiny, FILMS[2:], PROMPTS[2:3], pairs=2, seed=1)
    assert alone.losses_NK[0] == pytest.approx(together.losses_NK[2], rel=1e-4)


def test_each_pair_costs_two_forward_passes_a_film(tiny: Model) -> None:
    with counted_forwards(tiny) as seen:
        look_at_noised(tiny, FILMS, PROMPTS[:3], pairs=4, seed=0)
    assert (seen.conditional, seen.unconditional, seen.calls) == (12, 12, 4)


def test_prompt_beyond_the_window_is_cut(tiny: Model) -> None:
    long = " ".join(["edema"] * tiny.token_limit)
    cut = " ".join(["edema"] * (tiny.token_limit - 2))
    seen = [look_at_noised(tiny, FILMS[:1], [prompt], pairs=1, seed=0).losses_NK for prompt in (long, cut)]
    assert seen[0] == pytest.approx(seen[1], rel=1e-6)
