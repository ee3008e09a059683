"""Noise-prediction magnitude: closed form, per image, and what it costs in forward passes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.diffusion.denoise import denoise
from shared.diffusion.guidance import ClassifierFreeGuidance
from shared.diffusion.model import Model
from shared.diffusion.noise import draw_noise
from shared.errors import InvalidRequestError
from shared.memorization.magnitude import (
    MagnitudeObserver,
    UnconditionalCache,
    first_timestep,
    noise_prediction_magnitude,
    prompt_scores,
    screen,
    screening_seeds,
)
from tests.denoisers import PROMPTS, Forwards, counted_forwards

if TYPE_CHECKING:
    from torch import Tensor

SEEDS = [1, 2, 3, 4]


def screened(model: Model, prompts: list[str], seeds: list[int], *, steps: int = 1, batch_size: int = 32) -> Tensor:
    """d with a cold cache."""
    return screen(model, model.encode(prompts), seeds, steps=steps, cache=UnconditionalCache(), batch_size=batch_size)


def test_magnitude_is_the_norm_of_each_image() -> None:
    cond, uncond = torch.zeros(2, 4, 2, 2), torch.zeros(2, 4, 2, 2)
    cond[0], cond[1, 0, 0, 0] = 1.0, 3.0
    assert noise_prediction_magnitude(cond, uncond).tolist() == [4.0, 3.0]
    stacked = float((cond - uncond).norm())
    assert stacked == pytest.approx((4.0**2 + 3.0**2) ** 0.5)


def test_magnitude_is_taken_in_single_precision() -> None:
    cond = torch.full((1, 4, 8, 8), 300.0, dtype=torch.float16)  # squares of 300 overflow half precision
    magnitude = noise_prediction_magnitude(cond, torch.zeros_like(cond))
    assert magnitude.dtype == torch.float32
    assert float(magnitude) == pytest.approx(4800.0)


def test_memorizer_has_its_closed_form(memorizer: Any) -> None:
    noise = draw_noise(SEEDS, memorizer.latent_shape)
    d = screened(memorizer, [PROMPTS[0]], SEEDS)
    torch.testing.assert_close(d[0, :, 0].double(), memorizer.magnitude(noise, 981), rtol=1e-5, atol=0)


def test_memorizer_has_its_closed_form_along_the_guided_trajectory(memorizer: Any) -> None:
    observer = MagnitudeObserver()
    noise = draw_noise(SEEDS, memorizer.latent_shape)
    conditioning = memorizer.encode([PROMPTS[0]]).repeat(len(SEEDS))
    expected = []
    walk = denoise(memorizer, conditioning, noise, steps=50, guidance=ClassifierFreeGuidance(7.5), observers=[observer])
    for step, _ in zip(walk, range(5), strict=False):
        expected.append(memorizer.magnitude(step.x_t, step.t))
    torch.testing.assert_close(observer.magnitudes_TB[:5].double(), torch.stack(expected), rtol=1e-5, atol=0)
    torch.testing.assert_close(screened(memorizer, [PROMPTS[0]], SEEDS, steps=5)[0].T, observer.magnitudes_TB[:5], rtol=1e-5, atol=0)


def test_trigger_scores_above_every_other_prompt(memorizer: Any) -> None:
    scores = prompt_scores(screened(memorizer, PROMPTS, SEEDS))
    assert scores[1:].tolist() == [0.0, 0.0, 0.0]
    assert float(scores[0]) > 1.0


def test_score_is_the_mean_over_seeds_and_steps() -> None:
    magnitudes = torch.arange(12.0).reshape(2, 3, 2)
    assert prompt_scores(magnitudes).tolist() == [2.5, 8.5]


@pytest.mark.parametrize("steps", [1, 3])
def test_values_do_not_depend_on_company(tiny: Model, steps: int) -> None:
    together = screened(tiny, PROMPTS, SEEDS, steps=steps)
    alone = torch.cat([screened(tiny, [prompt], SEEDS, steps=steps) for prompt in PROMPTS])
    assert together.shape == (4, 4, steps)
    assert float(together.min()) > 1e-3
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@settings(max_examples=6, deadline=None)
@given(batch_size=st.sampled_from([1, 3, 5, 7, 16]))
def test_batches_of_any_size_give_the_same(batch_size: int, tiny: Model) -> None:
    torch.testing.assert_close(
        screened(tiny, PROMPTS[:2], SEEDS, batch_size=batch_size), screened(tiny, PROMPTS[:2], SEEDS), rtol=1e-5, atol=1e-5
    )


def test_four_seeds_equal_one_and_three(tiny: Model) -> None:
    together = screened(tiny, [PROMPTS[0]], SEEDS)
    parts = torch.cat([screened(tiny, [PROMPTS[0]], SEEDS[:1]), screened(tiny, [PROMPTS[0]], SEEDS[1:])], dim=1)
    torch.testing.assert_close(together, parts, rtol=1e-5, atol=1e-5)


@settings(max_examples=6, deadline=None)
@given(order=st.permutations(range(4)))
def test_order_of_prompts_does_not_matter(order: list[int], tiny: Model) -> None:
    straight = screened(tiny, PROMPTS, SEEDS[:2])
    torch.testing.assert_close(screened(tiny, [PROMPTS[i] for i in order], SEEDS[:2]), straight[order], rtol=1e-5, atol=1e-5)


def counts(seen: Forwards) -> tuple[int, int, int]:
    """What was forwarded."""
    return seen.conditional, seen.unconditional, seen.calls


def test_screening_costs_one_conditional_row_a_prompt_and_seed(tiny: Model) -> None:
    cache = UnconditionalCache()
    conditioning = tiny.encode(PROMPTS)
    with counted_forwards(tiny) as cold:
        screen(tiny, conditioning, SEEDS, steps=1, cache=cache)
    with counted_forwards(tiny) as warm:
        screen(tiny, conditioning, SEEDS, steps=1, cache=cache)
    assert counts(cold) == (16, 4, 2)  # the n unconditional rows once, in one call
    assert counts(warm) == (16, 0, 1)


@pytest.mark.parametrize("steps", [2, 5])
def test_further_steps_cost_both_halves(tiny: Model, steps: int) -> None:
    cache = UnconditionalCache()
    cache.get(tiny, SEEDS)
    with counted_forwards(tiny) as seen:
        screen(tiny, tiny.encode(PROMPTS[:3]), SEEDS, steps=steps, cache=cache)
    assert counts(seen) == (12 * steps, 12 * (steps - 1), steps)


def test_large_screening_is_forwarded_in_batches(tiny: Model) -> None:
    cache = UnconditionalCache()
    cache.get(tiny, SEEDS)
    with counted_forwards(tiny) as seen:
        screen(tiny, tiny.encode(PROMPTS), SEEDS, steps=1, cache=cache, batch_size=5)
    assert counts(seen) == (16, 0, 4)


def test_screening_that_does_not_fit_is_done_in_halves(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, predict_noise = screened(tiny, PROMPTS, SEEDS), Model.predict_noise

    def cramped(model: Model, x_BCHW: Tensor, *rest: Any) -> Tensor:
        if len(x_BCHW) > 8:
            raise torch.OutOfMemoryError
        return predict_noise(model, x_BCHW, *rest)

    monkeypatch.setattr(Model, "predict_noise", cramped)
    torch.testing.assert_close(screened(tiny, PROMPTS, SEEDS), whole, rtol=1e-4, atol=0)
    with pytest.raises(torch.OutOfMemoryError):
        screened(tiny, PROMPTS, [*SEEDS, 5])


def test_cache_computes_only_what_it_does_not_know(tiny: Model) -> None:
    cache = UnconditionalCache()
    cache.get(tiny, [1, 2])
    with counted_forwards(tiny) as seen:
        rows = cache.get(tiny, [2, 3, 1])
    assert counts(seen) == (0, 1, 1)
    fresh = UnconditionalCache().get(tiny, [2, 3, 1])
    torch.testing.assert_close(rows, fresh, rtol=0, atol=1e-5)


def test_cached_rows_are_the_unconditional_prediction_of_step_zero(tiny: Model) -> None:
    walk = denoise(
        tiny,
        tiny.encode([PROMPTS[0]]).repeat(2),
        draw_noise([1, 2], tiny.latent_shape),
        steps=50,
        guidance=ClassifierFreeGuidance(7.5),
    )
    torch.testing.assert_close(UnconditionalCache().get(tiny, [1, 2]), next(walk).eps_uncond, rtol=0, atol=1e-5)


def test_cache_tells_models_apart(memorizer: Any, gaussian: Any) -> None:
    cache = UnconditionalCache()
    other = type(gaussian).of(gaussian, mean=-2.0, deviation=0.1)
    assert (cache.get(gaussian, [1]) - cache.get(other, [1])).abs().max() > 0.1
    assert len(cache._known) == 2
    assert torch.equal(cache.get(memorizer, [1]), cache.get(gaussian, [1]))  # both know the same Gaussian


def test_cache_keeps_the_most_recently_used(gaussian: Any) -> None:
    cache = UnconditionalCache(capacity=3)
    cache.get(gaussian, [1, 2, 3])
    cache.get(gaussian, [1])
    cache.get(gaussian, [4])
    assert [seed for _, seed in cache._known] == [3, 1, 4]


def test_cache_answers_more_seeds_than_it_keeps(gaussian: Any) -> None:
    cache = UnconditionalCache(capacity=2)
    seeds = [1, 2, 3, 4, 3]
    torch.testing.assert_close(cache.get(gaussian, seeds), UnconditionalCache().get(gaussian, seeds))
    assert len(cache._known) == 2


def test_cache_shared_by_threads_computes_each_row_once(tiny: Model) -> None:
    cache = UnconditionalCache(capacity=8)
    expected = UnconditionalCache().get(tiny, range(8))
    answers: dict[int, Tensor] = {}
    start = threading.Barrier(4)

    def ask(worker: int) -> None:
        start.wait()
        answers[worker] = cache.get(tiny, list(range(8)))

    threads = [threading.Thread(target=ask, args=(worker,)) for worker in range(4)]
    with counted_forwards(tiny) as seen:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counts(seen) == (0, 8, 1)
    assert sorted(answers) == [0, 1, 2, 3]
    for answer in answers.values():
        torch.testing.assert_close(answer, expected, rtol=0, atol=1e-5)


def test_first_timestep_is_that_of_fifty_leading_steps(tiny: Model) -> None:
    assert first_timestep(tiny) == 981


def test_zero_terminal_snr_is_refused_instead_of_passing_as_safe(tiny: Model) -> None:
    config = tiny.scheduler_config | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    model = Model(tiny.text_encoder, tiny.tokenizer, tiny.unet, tiny.vae, config, "zero", tiny.device)
    assert float(model.alphas_cumprod[999]) == 0.0
    with pytest.raises(InvalidRequestError, match="zero signal-to-noise"):
        screened(model, PROMPTS[:1], SEEDS)


def test_v_model_is_measured_in_epsilon(stable_diffusion: Model) -> None:
    noise = draw_noise(SEEDS, stable_diffusion.latent_shape)
    with torch.no_grad():
        native = [
            stable_diffusion.unet(noise, 981, encoder_hidden_states=row.expand(4, -1, -1)).sample
            for row in (stable_diffusion.encode(PROMPTS[:1]).embeddings_BLE, stable_diffusion.unconditional_1LE)
        ]
    raw = noise_prediction_magnitude(*native)
    factor = 0.00578**0.5 if stable_diffusion.prediction_type == "v_prediction" else 1.0
    torch.testing.assert_close(screened(stable_diffusion, PROMPTS[:1], SEEDS)[0, :, 0], raw * factor, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(("seed", "count", "seeds"), [(0, 4, [0, 1, 2, 3]), (2**53 - 1, 2, [2**53 - 1, 0])])
def test_screening_seeds_are_numbered_as_images(seed: int, count: int, seeds: list[int]) -> None:
    assert screening_seeds(seed, count) == seeds
