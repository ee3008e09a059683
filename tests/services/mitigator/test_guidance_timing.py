"""Guidance timing: each image has its own switch, and the grid and the sign of the guidance stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from services.mitigator.guidance_timing import FIRST_SCALE, SWITCH, GuidanceTiming, TimedGuidance, TimingParameters, Variant
from shared.diffusion.denoise import Step, denoise, sample
from shared.diffusion.guidance import ClassifierFreeGuidance
from shared.diffusion.model import Model
from shared.diffusion.noise import draw_noise
from shared.memorization.magnitude import MagnitudeObserver
from tests.denoisers import PROMPTS, GaussianModel
from tests.services.mitigator.doubles import workbench

GRID = list(range(981, 0, -20))  # 50 steps


def step(index: int, t: int, magnitudes: Sequence[float]) -> Step:
    """A step whose images have these d, so that ε̂ / d is the scale in force."""
    eps_cond = torch.tensor(magnitudes).view(-1, 1, 1, 1)
    return Step(index, t, eps_cond, eps_cond, torch.zeros_like(eps_cond), eps_cond)


def scales(guidance: TimedGuidance, sequences_BT: Sequence[Sequence[float]], grid: Sequence[int] = GRID) -> list[list[float]]:
    """The scale in force for each image at each step."""
    rows = []
    for index, d_B in enumerate(zip(*sequences_BT, strict=True)):
        guided = guidance(step(index, grid[index], d_B)).flatten()
        rows.append((guided / torch.tensor(d_B)).tolist())
    return [[round(value, 5) for value in image] for image in zip(*rows, strict=True)]


def test_dynamic_switches_at_the_step_after_the_first_local_minimum() -> None:
    assert scales(TimedGuidance("dynamic", 7.5, 500), [[5, 4, 3, 3.5, 3, 2]]) == [[1, 1, 1, 7.5, 7.5, 7.5]]


@pytest.mark.parametrize("sequence", [[5, 4, 3, 2, 1], [1, 2, 3, 4, 5], [3, 3, 3, 3, 3], [3, 2, 2, 3, 4]])
def test_dynamic_without_a_strict_minimum_stays_at_the_conditional_prediction(sequence: list[float]) -> None:
    assert scales(TimedGuidance("dynamic", 7.5, 500), [sequence]) == [[1] * 5]


def test_dynamic_without_a_minimum_is_forced_where_t_reaches_the_switch() -> None:
    falling = [100.0 - i for i in range(50)]
    (seen,) = scales(TimedGuidance("dynamic", 7.5, 500), [falling])
    assert seen == [1 if t > 500 else 7.5 for t in GRID]
    assert seen.count(1) == 25


def test_images_of_one_batch_switch_each_at_their_own_minimum_as_they_would_alone() -> None:
    early, late, never = [5, 3, 4, 4, 4, 4], [5, 4, 3, 2, 3, 4], [9, 8, 7, 6, 5, 4]
    together = scales(TimedGuidance("dynamic", 7.5, 500), [early, late, never])
    assert together == [[1, 1, 7.5, 7.5, 7.5, 7.5], [1, 1, 1, 1, 7.5, 7.5], [1] * 6]
    assert together == [scales(TimedGuidance("dynamic", 7.5, 500), [one])[0] for one in (early, late, never)]


@pytest.mark.parametrize("variant", ["static", "opposite"])
def test_static_variants_ignore_minima_and_change_once_at_their_timestep(variant: Variant) -> None:
    wavy = [5.0 if i % 2 else 3.0 for i in range(50)]
    (seen,) = scales(TimedGuidance(variant, 7.5, SWITCH[variant]), [wavy])
    assert seen == [{"static": 0.0, "opposite": -2.0}[variant] if t > SWITCH[variant] else 7.5 for t in GRID]
    assert sum(a != b for a, b in pairwise(seen)) == 1  # no sign alternates


def test_switch_that_is_a_timestep_takes_that_step_in_full() -> None:
    (seen,) = scales(TimedGuidance("static", 7.5, 501), [[1.0] * 50])
    assert next(t for t, scale in zip(GRID, seen, strict=True) if scale == 7.5) == 501


@pytest.mark.parametrize(("variant", "scale", "switch"), [("static", 0.0, 500), ("opposite", -2.0, 650), ("dynamic", 1.0, 500)])
def test_variants_have_the_papers_constants(variant: Variant, scale: float, switch: int) -> None:
    assert (FIRST_SCALE[variant], SWITCH[variant]) == (scale, switch)


def test_plan_names_the_change_and_keeps_prompt_and_embedding(tiny: Model) -> None:
    bench = workbench(tiny, scale=7.5)
    plain = bench.plain(PROMPTS[0])
    plan = GuidanceTiming().apply(plain, bench)
    assert plan.strategies == ("guidance_timing",)
    assert plan.changes == ("guidance 1 until t = 500 or the first minimum of d",)
    assert (plan.prompt, plan.conditioning, plan.forwards) == (plain.prompt, plain.conditioning, 0)
    assert (plan.first_scale, plain.first_scale) == (1.0, 7.5)
    assert plan.make_guidance() is not plan.make_guidance()  # a rule keeps state


def test_asked_switch_replaces_the_papers(tiny: Model) -> None:
    plan = GuidanceTiming(TimingParameters(variant="opposite", switch=0)).apply(workbench(tiny).plain("a"), workbench(tiny))
    assert plan.changes == ("guidance -2 until t = 0",)
    guidance = plan.make_guidance()
    assert isinstance(guidance, TimedGuidance)
    assert (guidance.switch, guidance.scale, guidance.first_scale) == (0, 3.0, -2.0)


class RecordingGuidance(TimedGuidance):
    """Remembers the scale of each step, read off the guided prediction."""

    def __init__(self, variant: Variant, scale: float, switch: int) -> None:
        super().__init__(variant, scale, switch)
        self.seen: list[Tensor] = []

    def __call__(self, step: Step) -> Tensor:
        guided = super().__call__(step)
        pull = (step.eps_cond - step.eps_uncond).flatten(1)
        self.seen.append(((guided - step.eps_uncond).flatten(1) * pull).sum(1) / pull.square().sum(1))
        return guided


def run(model: Any, guidance: Any, prompts: list[str], seeds: list[int]) -> tuple[list[int], Tensor]:
    """The visited timesteps and the latents at the end."""
    steps = list(denoise(model, model.encode(prompts), draw_noise(seeds, model.latent_shape), steps=50, guidance=guidance))
    return [s.t for s in steps], steps[-1].x_next


@pytest.mark.parametrize(("switch", "plain_scale"), [(0, 0.0), (1000, 7.5)])
def test_run_held_back_to_the_end_or_not_at_all_equals_plain_guidance(memorizer: Any, switch: int, plain_scale: float) -> None:
    noise, told = draw_noise([3], memorizer.latent_shape), memorizer.encode(PROMPTS[:1])
    timed = sample(memorizer, told, noise, steps=50, guidance=TimedGuidance("static", 7.5, switch))
    plain = sample(memorizer, told, noise, steps=50, guidance=ClassifierFreeGuidance(plain_scale))
    assert torch.equal(timed, plain)


def test_switch_on_the_grid_leaves_the_fifty_timesteps_as_they_are(memorizer: Any) -> None:
    visited, _ = run(memorizer, TimedGuidance("static", 7.5, 501), PROMPTS[:1], [3])
    assert visited == GRID


@dataclass
class WavingModel(GaussianModel):
    """The text's pull rises and falls along the run, each prompt's at its own time."""

    def predict_noise(self, x_BCHW: Tensor, t: int | Tensor, embeddings_BLE: Tensor) -> Tensor:
        """The Gaussian's ε, and a wave of t for all but the empty prompt."""
        told_B = (embeddings_BLE - self.encode([""]).embeddings_BLE).abs().sum((1, 2))
        wave_B = torch.where(told_B > 0, 1 + 0.5 * torch.sin(torch.as_tensor(t) / 60 + told_B), 0.0)
        return super().predict_noise(x_BCHW, t, embeddings_BLE) + wave_B.view(-1, 1, 1, 1)


def test_run_switches_each_image_at_its_own_minimum(tiny: Model) -> None:
    model = WavingModel.of(tiny)
    guidance, observer = RecordingGuidance("dynamic", 3.0, 200), MagnitudeObserver()
    noise = draw_noise([1, 2, 3, 4], model.latent_shape)
    walk = denoise(model, model.encode(PROMPTS), noise, steps=50, guidance=guidance, observers=[observer])
    visited = [s.t for s in walk]
    seen_TB = torch.stack(guidance.seen)
    switches = set()
    for image, d in enumerate(observer.magnitudes_TB.T.tolist()):
        first = next(i for i in range(2, 50) if (d[i - 1] < d[i - 2] and d[i - 1] < d[i]) or visited[i] <= 200)
        switches.add(first)
        expected = torch.where(torch.arange(50) < first, 1.0, 3.0)
        torch.testing.assert_close(seen_TB[:, image], expected, rtol=0, atol=1e-2)
    assert len(switches) > 1


def test_batch_of_the_memorizer_and_another_prompt_equals_single_runs(memorizer: Any) -> None:
    told, seeds = [PROMPTS[0], PROMPTS[2]], [5, 6]
    _, together = run(memorizer, TimedGuidance("dynamic", 7.5, 500), told, seeds)
    alone = [run(memorizer, TimedGuidance("dynamic", 7.5, 500), [p], [s])[1] for p, s in zip(told, seeds, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)


def test_memorized_prompt_held_back_ends_farther_from_the_image(memorizer: Any) -> None:
    _, plain = run(memorizer, ClassifierFreeGuidance(1.0), PROMPTS[:1], [3])
    _, held = run(memorizer, TimedGuidance("static", 1.0, 0), PROMPTS[:1], [3])
    distance_plain, distance_held = ((x[0] - memorizer.image_CHW).norm().item() for x in (plain, held))
    assert distance_plain < 1.0
    assert distance_held > 5 * distance_plain
