"""Plans and the bench: history, the detector's own score, and how far a rule lets the prompt pull."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from services.mitigator.guidance_timing import GuidanceTiming, TimingParameters
from services.mitigator.strategy import StrategyParameters, Workbench
from shared.diffusion.denoise import Step
from shared.diffusion.guidance import ClassifierFreeGuidance
from shared.diffusion.model import Model
from shared.diffusion.noise import draw_noise
from shared.memorization.magnitude import UnconditionalCache, prompt_scores, screen
from tests.denoisers import PROMPTS, counted_forwards
from tests.services.mitigator.doubles import workbench


def test_plain_plan_is_the_prompt_under_plain_guidance(tiny: Model) -> None:
    plan = workbench(tiny, scale=7.5).plain(PROMPTS[0])
    assert plan.make_guidance() == ClassifierFreeGuidance(7.5)
    assert torch.equal(plan.conditioning.embeddings_BLE, tiny.encode(PROMPTS[:1]).embeddings_BLE)
    assert (plan.first_scale, plan.strategies, plan.changes, plan.forwards) == (7.5, (), (), 0)


def test_changed_plan_adds_to_the_history_and_leaves_the_old_one(tiny: Model) -> None:
    plain = workbench(tiny).plain(PROMPTS[0])
    first = plain.changed("a", forwards=3, changes=["x"])
    second = first.changed("b", forwards=4, changes=["y", "z"], first_scale=0.0)
    assert (second.strategies, second.changes, second.forwards, second.first_scale) == (("a", "b"), ("x", "y", "z"), 7, 0.0)
    assert (plain.strategies, plain.forwards, first.first_scale) == ((), 0, 3.0)
    assert len({plain, first, second, plain.changed("a")}) == 4


def test_score_is_the_detectors_own(tiny: Model) -> None:
    bench = workbench(tiny)
    theirs = prompt_scores(screen(tiny, tiny.encode(PROMPTS), [0, 1, 2, 3], steps=1, cache=UnconditionalCache()))
    torch.testing.assert_close(bench.scores(tiny.encode(PROMPTS)), theirs, rtol=0, atol=0)


@pytest.mark.parametrize("steps", [1, 3])
def test_screening_cost_is_what_a_warm_screening_runs(tiny: Model, steps: int) -> None:
    bench = Workbench(tiny, UnconditionalCache(), 1.0, 1.0, 3.0, [0, 1], screening_steps=steps)
    bench.cache.get(tiny, bench.screening_seeds)
    with counted_forwards(tiny) as seen:
        bench.scores(tiny.encode(PROMPTS[:3]))
    assert seen.conditional + seen.unconditional == bench.screening_cost(3) == 6 * (2 * steps - 1)


@pytest.mark.parametrize(("variant", "share"), [("dynamic", 1 / 5), ("static", 0.0), ("opposite", 2 / 5)])
def test_applied_score_is_the_pull_of_the_rule_at_step_0_in_units_of_d(tiny: Model, variant: str, share: float) -> None:
    bench = workbench(tiny, scale=5.0)
    plain = bench.plain(PROMPTS[0])
    plan = GuidanceTiming(TimingParameters.model_validate({"variant": variant})).apply(plain, bench)
    assert bench.applied_score(plain) == pytest.approx(float(bench.scores(plain.conditioning)[0]))
    assert bench.applied_score(plan) == pytest.approx(share * bench.applied_score(plain))
    noise = draw_noise(bench.screening_seeds, tiny.latent_shape)
    with torch.no_grad():
        e_c = tiny.predict_noise(noise, 981, plain.conditioning.repeat(4).embeddings_BLE)
        e_u = bench.cache.get(tiny, bench.screening_seeds)
    pull = (plan.make_guidance()(Step(0, 981, noise, e_c, e_u, noise)) - e_u).flatten(1).norm(dim=1).mean() / 5.0
    assert bench.applied_score(plan) == pytest.approx(float(pull), rel=1e-4)


def test_no_guidance_at_all_pulls_nowhere(tiny: Model) -> None:
    bench = workbench(tiny, scale=0.0)
    assert bench.applied_score(bench.plain(PROMPTS[0])) == 0.0


@pytest.mark.parametrize("wrong", [{"x": 1}, {"rate": float("nan")}, {"rate": "1"}, {"rate": True}])
def test_parameters_are_strict(wrong: dict[str, object]) -> None:
    class Rate(StrategyParameters):
        rate: float = 1.0

    with pytest.raises(ValidationError):
        Rate.model_validate(wrong)
