"""Guidance timing (Jain et al., CVPR 2025): keep the prompt from pulling until the trajectory has left the basin of attraction.

B images, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import torch
from pydantic import Field
from torch import Tensor

from services.mitigator.strategy import Plan, StrategyParameters, Workbench
from shared.diffusion.denoise import Step
from shared.memorization.magnitude import noise_prediction_magnitude

Variant = Literal["static", "opposite", "dynamic"]
FIRST_SCALE: Final[dict[Variant, float]] = {"static": 0.0, "opposite": -2.0, "dynamic": 1.0}
SWITCH: Final[dict[Variant, int]] = {"static": 500, "opposite": 650, "dynamic": 500}
"""Full guidance applies for t ≤ switch; the dynamic variant switches earlier, at the first local minimum of d."""


class TimingParameters(StrategyParameters):
    """Which variant, and from which timestep on guidance is full."""

    variant: Variant = Field(
        default="dynamic", description="static: no text before; opposite: away from the text; dynamic: switch at d's first minimum."
    )
    switch: int | None = Field(
        default=None, ge=0, le=1000, description="Timestep t from which guidance is full at the latest; null: the paper's."
    )


class TimedGuidance:
    """ε̂ = ε_u + w₀(ε_c − ε_u) before an image's switch and with the full w after it; every image has its own switch."""

    needs_unconditional: ClassVar[bool] = True

    def __init__(self, variant: Variant, scale: float, switch: int) -> None:
        """Before the first step no image has switched."""
        self.first_scale = FIRST_SCALE[variant]
        self.scale = scale
        self.switch = switch
        self.dynamic = variant == "dynamic"
        self.switched_B: Tensor | None = None
        self._magnitudes: list[Tensor] = []

    def __call__(self, step: Step) -> Tensor:
        """The guided prediction of this step."""
        d_B = noise_prediction_magnitude(step.eps_cond, step.eps_uncond)
        if self.switched_B is None:
            self.switched_B = torch.zeros_like(d_B, dtype=torch.bool)
        self._magnitudes = [*self._magnitudes[-2:], d_B]
        if self.dynamic and len(self._magnitudes) == 3:  # a minimum needs two neighbours
            before, lowest, after = self._magnitudes
            self.switched_B = self.switched_B | ((lowest < before) & (lowest < after))
        if step.t <= self.switch:
            self.switched_B = torch.ones_like(self.switched_B)
        scale = torch.where(self.switched_B, self.scale, self.first_scale).view(-1, 1, 1, 1)
        return step.eps_uncond + scale * (step.eps_cond - step.eps_uncond)


@dataclass(frozen=True)
class GuidanceTimes:
    """The recipe of timed guidance."""

    variant: Variant
    scale: float
    switch: int

    def __call__(self) -> TimedGuidance:
        """A rule by which no image has switched."""
        return TimedGuidance(self.variant, self.scale, self.switch)


class GuidanceTiming:
    """Replaces the guidance rule inside the loop; prompt and noise stay as they are."""

    name: ClassVar[str] = "guidance_timing"
    summary: ClassVar[str] = (
        "Holds the text back early in the run, where memorized prompts capture the trajectory; static, opposite or dynamic."
    )
    paper: ClassVar[str] = "Jain et al., CVPR 2025"
    cost: ClassVar[str] = "0"

    def __init__(self, parameters: TimingParameters | None = None) -> None:
        """The dynamic variant where nothing is asked for."""
        self.parameters = parameters or TimingParameters()

    def apply(self, plan: Plan, bench: Workbench) -> Plan:
        """The plan with timed guidance."""
        variant = self.parameters.variant
        switch = SWITCH[variant] if self.parameters.switch is None else self.parameters.switch
        scale = bench.guidance_scale
        return plan.changed(
            self.name,
            changes=[
                f"guidance {FIRST_SCALE[variant]:g} until t = {switch}" + (" or the first minimum of d" if variant == "dynamic" else "")
            ],
            make_guidance=GuidanceTimes(variant, scale, switch),
            first_scale=FIRST_SCALE[variant],
        )
