"""The sampler on the wire."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from shared.http.bodies import Seed, StrictBody

# The names that shared.diffusion.schedulers knows, spelled out because this module is free of tensor libraries.
Scheduler = Literal["ddim", "dpm-solver++", "euler"]
Prompt = Annotated[str, Field(max_length=2000)]


class GenerationRequest(StrictBody):
    """What to draw."""

    model: str = Field(min_length=1, max_length=64, description="The model's id.")
    prompts: list[Prompt] = Field(
        min_length=1,
        max_length=64,
        description="What the images shall show; the empty prompt with guidance_scale 1 samples unconditionally.",
    )
    images_per_prompt: int = Field(default=1, ge=1, le=16)
    steps: int = Field(default=50, ge=1, le=200, description="Denoising steps.")
    guidance_scale: float = Field(
        default=7.5, ge=0, le=30, description="How strongly the prompt pulls; 1 is the conditional prediction alone."
    )
    scheduler: Scheduler = "ddim"
    seed: Seed = 0
    output: Literal["inline", "stored"] = Field(default="inline", description="Images in the answer, or in the store.")
    format: Literal["png"] = "png"


class GeneratedImage(BaseModel):
    """One image."""

    prompt_index: int = Field(description="Which of the prompts it was drawn for.")
    seed: int = Field(description="Asking for this seed alone gives this image again.")
    png: str | None = Field(description="The PNG in base64; null when it was stored.")
    uri: str | None = Field(description="Where the stored image is answered; null when it is inline.")
    sha256: str = Field(description="Of the PNG.")


class Generation(BaseModel):
    """The images of a request, by prompt and then by seed."""

    id: str
    images: list[GeneratedImage]


class StoredImage(BaseModel):
    """One image of a stored generation."""

    prompt_index: int
    seed: int
    uri: str
    sha256: str


class StoredGeneration(BaseModel):
    """A stored generation: what was asked, without the prompts' words, and where its images are."""

    id: str
    created: str
    model: str
    request: dict[str, object] = Field(description="The request; each prompt is told by its keyed hash and its length.")
    images: list[StoredImage]
