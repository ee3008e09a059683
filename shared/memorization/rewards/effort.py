"""How thoroughly a model is measured; free of tensor libraries, so that the HTTP surface can read it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Effort(BaseModel):
    """What all models of one search are measured with, so that their figures can be compared."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    images_per_canary: int = Field(default=4, ge=1, le=64, description="Images that are drawn of each canary's prompt.")
    control_prompts: int = Field(
        default=64,
        ge=2,
        le=4096,
        description="Held-out prompts that images are drawn of; their films are the non-members. At most those there are.",
    )
    sampling_steps: int = Field(default=20, ge=1, le=200, description="Denoising steps of every image.")
    guidance_scale: float = Field(default=4.0, ge=0, le=30, description="How strongly a prompt pulls.")
    noises: int = Field(
        default=4, ge=1, le=64, description="Pairs of timestep and noise, the same for all models, that each film is noised with."
    )
    seed: int = Field(default=0, ge=0, le=2**53 - 1, description="Where the measurement's randomness starts.")
