"""Guidance rules: how two predictions become one."""

from __future__ import annotations

import pytest
import torch

from shared.diffusion.denoise import Step
from shared.diffusion.guidance import ClassifierFreeGuidance

COND, UNCOND, X = torch.full((1, 4, 2, 2), 3.0), torch.full((1, 4, 2, 2), 1.0), torch.zeros(1, 4, 2, 2)


@pytest.mark.parametrize(("scale", "value"), [(0.0, 1.0), (1.0, 3.0), (2.0, 5.0), (7.5, 16.0), (-1.0, -1.0)])
def test_guidance_moves_from_unconditional_through_conditional(scale: float, value: float) -> None:
    guided = ClassifierFreeGuidance(scale)(Step(0, 981, X, COND, UNCOND, X))
    assert torch.equal(guided, torch.full_like(X, value))


def test_scale_one_needs_no_unconditional_prediction() -> None:
    guidance = ClassifierFreeGuidance(1.0)
    assert not guidance.needs_unconditional
    assert guidance(Step(0, 981, X, COND, None, X)) is COND


@pytest.mark.parametrize("scale", [0.0, 0.5, 7.5])
def test_other_scales_need_it(scale: float) -> None:
    assert ClassifierFreeGuidance(scale).needs_unconditional
