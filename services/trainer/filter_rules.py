"""What a training job is told of batch filters; free of tensor libraries, so that the HTTP surface can read it."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from shared.http.bodies import StrictSpec

AGC_SCALE: Final = 1.25  # λ for Stable Diffusion: below 80 % of the mean is left out (Liu et al. 2024)
AGC_DECAY: Final = 0.8  # γ


class MagnitudeRule(StrictSpec):
    """Samples with a large ‖ε_c − ε_u‖₂ are left out (Wen et al. 2024); costs one more forward of the denoiser a batch."""

    kind: Literal["magnitude"]
    threshold: float | None = Field(
        default=None, gt=0, le=1e6, description="Samples at or above it are left out; it grows with the latent: 2 at 512 pixels."
    )
    quantile: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Of the batch's samples with a prompt, those above this quantile are left out; without either, 0.9.",
    )
    by_timestep: bool = Field(
        default=False, description="Take the quantile of samples at like timesteps, over the batches so far, instead of each batch's own."
    )

    @field_validator("quantile")
    @classmethod
    def _require_one_limit(cls, quantile: float | None, info: ValidationInfo) -> float | None:
        """Two limits at once would be neither."""
        if quantile is not None and info.data.get("threshold") is not None:
            raise ValueError("give a threshold or a quantile, not both")
        return quantile

    @field_validator("by_timestep")
    @classmethod
    def _require_a_quantile(cls, by_timestep: bool, info: ValidationInfo) -> bool:
        """A threshold is the same at all timesteps."""
        if by_timestep and info.data.get("threshold") is not None:
            raise ValueError("a threshold is the same at all timesteps; give a quantile, or none for 0.9")
        return by_timestep


class AntiGradientRule(StrictSpec):
    """Samples whose loss is far below their timestep's running mean are left out (anti-gradient control, Liu et al. 2024)."""

    kind: Literal["anti_gradient"]
    scale: float = Field(
        default=AGC_SCALE,
        ge=1,
        le=1000,
        description="A sample is left out where this times its loss is below the mean: 1.25 below 80 %, 2 (for pixels) below half.",
    )
    decay: float = Field(default=AGC_DECAY, ge=0, lt=1, description="What a timestep's mean keeps of itself at each visit.")
    until_timestep: int | None = Field(
        default=None, ge=1, le=1000, description="From this timestep on nothing is left out; a published variant has 600. null judges all."
    )
    augment_margin: float | None = Field(
        default=None,
        gt=0,
        le=10,
        description="Films whose loss is less than this share of the mean above the limit come changed next time; 0.1. null changes none.",
    )


FilterRule = Annotated[MagnitudeRule | AntiGradientRule, Field(discriminator="kind")]
