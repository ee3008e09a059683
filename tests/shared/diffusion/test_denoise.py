"""The loop: equal to diffusers' own pipeline, blind to an image's place in the batch, honest about what it computes."""

from __future__ import annotations

from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.diffusion.denoise import Step, denoise, predict_halves, sample
from shared.diffusion.guidance import ClassifierFreeGuidance
from shared.diffusion.noise import draw_noise
from shared.errors import InvalidRequestError
from tests.denoisers import PROMPTS, counted_forwards

if TYPE_CHECKING:
    from pathlib import Path

    from shared.diffusion.model import Model
    from shared.diffusion.schedulers import SchedulerName

THEIRS = {"ddim": None, "dpm-solver++": DPMSolverMultistepScheduler, "euler": EulerDiscreteScheduler}


def draw(model: Model, prompts: list[str], seeds: list[int], *, scale: float = 3.0, steps: int = 4) -> torch.Tensor:
    """Latents x_0 by the loop."""
    noise = draw_noise(seeds, model.latent_shape)
    return sample(model, model.encode(prompts), noise, steps=steps, guidance=ClassifierFreeGuidance(scale))


@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize("name", ["ddim", "dpm-solver++", "euler"])
def test_loop_equals_diffusers_pipeline(stable_diffusion: Model, tmp_path: Path, name: SchedulerName, scale: float) -> None:
    stable_diffusion.save(tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path, local_files_only=True, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    if THEIRS[name] is not None:
        pipeline.scheduler = THEIRS[name].from_config(pipeline.scheduler.config)
    noise = draw_noise([3, 4], stable_diffusion.latent_shape)
    call: dict[str, Any] = {"num_inference_steps": 7, "guidance_scale": scale, "latents": noise, "output_type": "latent"}
    theirs = pipeline(PROMPTS[:2], **call).images
    ours = sample(
        stable_diffusion,
        stable_diffusion.encode(PROMPTS[:2]),
        noise,
        steps=7,
        guidance=ClassifierFreeGuidance(scale),
        scheduler=name,
    )
    assert theirs.std() > 0.1
    # The v-model's route over ε rounds differently: near t = T, σ/α is 13.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 if stable_diffusion.prediction_type == "epsilon" else 2e-4)


def test_decoded_image_equals_diffusers_pipeline(stable_diffusion: Model, tmp_path: Path) -> None:
    stable_diffusion.save(tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path, local_files_only=True, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = draw_noise([3], stable_diffusion.latent_shape)
    theirs = pipeline(PROMPTS[:1], num_inference_steps=3, guidance_scale=3.0, latents=noise, output_type="np").images
    ours = stable_diffusion.to_images(draw(stable_diffusion, PROMPTS[:1], [3], steps=3))
    torch.testing.assert_close(ours, torch.from_numpy(theirs).mean(-1), rtol=0, atol=1e-4)


@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(4)))
def test_permuted_batch_gives_permuted_images_bit_for_bit(order: list[int], tiny: Model) -> None:
    prompts, seeds = PROMPTS, [5, 6, 7, 8]
    straight = draw(tiny, prompts, seeds)
    permuted = draw(tiny, [prompts[i] for i in order], [seeds[i] for i in order])
    assert torch.equal(permuted, straight[order])


@settings(max_examples=6, deadline=None)
@given(cut=st.integers(1, 3), scale=st.sampled_from([0.0, 1.0, 3.0, 7.5]))
def test_split_batch_gives_same_images(cut: int, scale: float, tiny: Model) -> None:
    seeds = [5, 6, 7, 8]
    whole = draw(tiny, PROMPTS, seeds, scale=scale)
    parts = [draw(tiny, PROMPTS[rows], seeds[rows], scale=scale) for rows in (slice(0, cut), slice(cut, 4))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-4)


def test_same_seed_and_prompt_give_same_image_another_seed_another(tiny: Model) -> None:
    first, again, other = draw(tiny, [PROMPTS[0]] * 3, [11, 11, 12])
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.1


def test_halves_come_unconditional_first(tiny: Model) -> None:
    x = draw_noise([1, 2], tiny.latent_shape)
    conditioning = tiny.encode(PROMPTS[:2])
    eps_uncond, eps_cond = predict_halves(tiny, x, 981, conditioning.embeddings_BLE)
    with torch.no_grad():
        empty = tiny.predict_noise(x, 981, tiny.encode(["", ""]).embeddings_BLE)
        told = tiny.predict_noise(x, 981, conditioning.embeddings_BLE)
    assert (empty - told).abs().max() > 1e-3
    torch.testing.assert_close(eps_uncond, empty, rtol=0, atol=1e-6)
    torch.testing.assert_close(eps_cond, told, rtol=0, atol=1e-6)


def test_memorizer_keeps_its_noise_along_the_way_to_its_image(memorizer: Any) -> None:
    # DDIM ends at ᾱ_0 < 1 on this schedule, and the memorizer's ε is constant along its own trajectory.
    noise = draw_noise([1], memorizer.latent_shape)
    alpha, sigma = memorizer.alpha_sigma(951, noise)
    epsilon = (noise - alpha * memorizer.image_CHW) / sigma
    last_alpha, last_sigma = memorizer.alpha_sigma(0, noise)
    x_0 = draw(memorizer, [PROMPTS[0]], [1], scale=1.0, steps=20)
    torch.testing.assert_close(x_0, last_alpha * memorizer.image_CHW + last_sigma * epsilon, rtol=0, atol=1e-4)


def test_gaussian_without_spread_draws_its_mean(memorizer: Any) -> None:
    noise = draw_noise([2], memorizer.latent_shape)
    sharp = type(memorizer).of(memorizer, mean=0.3, deviation=0.0)
    sharp.image_CHW = torch.full(memorizer.latent_shape, 0.3)
    assert torch.allclose(sharp.magnitude(noise, 981), torch.zeros(1, dtype=torch.float64), atol=1e-6)
    torch.testing.assert_close(draw(sharp, [PROMPTS[1]], [2], scale=7.5), draw(sharp, [PROMPTS[0]], [2], scale=1.0), rtol=0, atol=1e-4)


def test_gaussian_draws_its_mean_and_spread(gaussian: Any) -> None:
    x_0 = draw(gaussian, [PROMPTS[1]] * 64, list(range(64)), scale=7.5, steps=200)
    assert float(x_0.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(x_0.std()) == pytest.approx(0.5, abs=0.02)


class Recorder:
    """Keeps what it was shown."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def observe(self, step: Step) -> None:
        self.steps.append(step)


def test_steps_visit_leading_timesteps_and_end_in_x_0(tiny: Model) -> None:
    noise = draw_noise([1], tiny.latent_shape)
    steps = list(denoise(tiny, tiny.encode(PROMPTS[:1]), noise, steps=50, guidance=ClassifierFreeGuidance(1.0)))
    assert [step.t for step in steps] == list(range(981, 0, -20))
    assert [step.index for step in steps] == list(range(50))
    assert torch.equal(steps[0].x_t, noise)
    assert all(torch.equal(left.x_next, right.x_t) for left, right in pairwise(steps))
    assert torch.equal(steps[-1].x_next, draw(tiny, PROMPTS[:1], [1], scale=1.0, steps=50))


def test_observer_sees_both_halves_before_the_latents_move(tiny: Model) -> None:
    recorder = Recorder()
    noise = draw_noise([1, 2], tiny.latent_shape)
    walk = denoise(tiny, tiny.encode(PROMPTS[:2]), noise, steps=50, guidance=ClassifierFreeGuidance(1.0), observers=[recorder])
    plain = draw(tiny, PROMPTS[:2], [1, 2], scale=1.0, steps=50)
    last = list(walk)[-1]
    assert len(recorder.steps) == 50
    assert recorder.steps[0].eps_uncond.shape == noise.shape
    torch.testing.assert_close(last.x_next, plain, rtol=0, atol=1e-4)


def test_unconditional_prediction_that_was_not_computed_is_a_defect(tiny: Model) -> None:
    noise = draw_noise([1], tiny.latent_shape)
    step = next(denoise(tiny, tiny.encode(PROMPTS[:1]), noise, steps=50, guidance=ClassifierFreeGuidance(1.0)))
    with pytest.raises(RuntimeError, match="unconditional"):
        _ = step.eps_uncond


@pytest.mark.parametrize(("scale", "unconditional"), [(1.0, 0), (3.0, 6), (0.0, 6)])
def test_guidance_decides_how_many_rows_are_forwarded(tiny: Model, scale: float, unconditional: int) -> None:
    with counted_forwards(tiny) as seen:
        draw(tiny, PROMPTS[:2], [1, 2], scale=scale, steps=3)
    assert (seen.conditional, seen.unconditional, seen.calls) == (6, unconditional, 3)


def test_early_stop_forwards_no_further_step(tiny: Model) -> None:
    noise = draw_noise([1], tiny.latent_shape)
    with counted_forwards(tiny) as seen:
        walk = denoise(tiny, tiny.encode(PROMPTS[:1]), noise, steps=50, guidance=ClassifierFreeGuidance(3.0))
        assert len(list(islice(walk, 2))) == 2
    assert seen.calls == 2


def test_loop_leaves_gradients_as_they_were_for_whoever_iterates(tiny: Model) -> None:
    noise = draw_noise([1], tiny.latent_shape)
    for step in islice(denoise(tiny, tiny.encode(PROMPTS[:1]), noise, steps=50, guidance=ClassifierFreeGuidance(3.0)), 2):
        assert torch.is_grad_enabled()
        assert not step.x_next.requires_grad


def test_schedule_of_zero_terminal_snr_is_refused(tiny: Model) -> None:
    config = tiny.scheduler_config | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    model = tiny_with(tiny, config)
    with pytest.raises(InvalidRequestError, match="zero signal-to-noise"):
        draw(model, PROMPTS[:1], [1])


def tiny_with(model: Model, config: dict[str, Any]) -> Model:
    """The same parts under another schedule."""
    return type(model)(model.text_encoder, model.tokenizer, model.unet, model.vae, config, "other", model.device)
