"""The mitigator's wire: what requests may ask and what answers hold."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from shared.http.bodies import Seed, StrictBody

PROMPT_LENGTH = 2000  # characters; the encoder's window in tokens is checked against the model
Prompt = Annotated[str, Field(max_length=PROMPT_LENGTH)]


class Mitigation(StrictBody):
    """Which strategy, and how."""

    strategy: str = Field(
        default="auto", max_length=64, description="A name of GET /v1/strategies, or auto: the least change that suffices."
    )
    parameters: dict[str, Any] = Field(default_factory=dict, description="The strategy's parameters; none for auto.")


class GenerationRequest(StrictBody):
    """The sampler's request with a mitigation."""

    model: str = Field(min_length=1, max_length=64, description="A model's id.")
    prompts: list[Prompt] = Field(min_length=1, max_length=16, description="What to draw.")
    images_per_prompt: int = Field(default=1, ge=1, le=16, description="Images of each prompt; image j has seed + j.")
    steps: int = Field(default=50, ge=1, le=200, description="Denoising steps.")
    guidance_scale: float = Field(default=7.5, ge=0, le=30, description="w of classifier-free guidance.")
    scheduler: Literal["ddim", "dpm-solver++", "euler"] = "ddim"
    seed: Seed = 0
    output: Literal["inline"] = Field(default="inline", description="Mitigated images are answered, not stored.")
    format: Literal["png"] = "png"
    mitigation: Mitigation = Field(default_factory=Mitigation)


class EvidenceReply(BaseModel):
    """What was changed for one image, and the detector's verdicts before and after."""

    strategy: str = Field(description="The strategies that made the image, joined by '+'; none where the plain image was safe.")
    changes: list[str] = Field(description="What they changed; the words given up are named.")
    score_before: float = Field(description="Memorization score of the prompt as asked.")
    score_after: float = Field(description="The same of what was drawn: how far the text pulls at the first step.")
    threshold: float = Field(description="Scores from here on count as memorized.")
    similarity_before: float = Field(description="Similarity of the plain image to its nearest training film.")
    similarity_after: float = Field(description="Similarity of this image to its nearest training film.")
    similarity_threshold: float = Field(description="Similarities from here on count as copies.")
    verdict_before: str
    verdict_after: str
    fidelity_before: float = Field(description="Agreement of the plain image with the prompt as asked, 0 to 1.")
    prompt_fidelity: float = Field(description="Agreement of this image with the prompt as asked, 0 to 1.")
    forwards: int = Field(description="Forward passes spent on this image's plan and run.")
    calibration: str


class ImageReply(BaseModel):
    """A released image."""

    prompt_index: int
    seed: int
    png: str
    uri: None = None
    sha256: str
    evidence: EvidenceReply


class GenerationReply(BaseModel):
    """The released images, by prompt and then by seed."""

    id: str
    images: list[ImageReply]


class StrategyReply(BaseModel):
    """A strategy that requests may name."""

    name: str
    summary: str
    parameters: dict[str, Any] = Field(description="JSON schema of its parameters.")
    cost: str = Field(description="Forward passes beyond plain generation; F one forward, B one backward pass, n the screening's seeds.")
    paper: str


class StrategiesReply(BaseModel):
    """All strategies."""

    items: list[StrategyReply]
