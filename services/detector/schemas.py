"""The detector on the wire."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from shared.http.bodies import Seed, StrictBody

Identifier = Annotated[str, Field(min_length=1, max_length=64)]
Prompt = Annotated[str, Field(max_length=2000)]
Signal = Literal["noise_magnitude"]
Signals = Annotated[list[Signal], Field(min_length=1, max_length=1, description="What the score is made of.")]
Steps = Annotated[int, Field(ge=1, le=10, description="Steps of the trajectory that are looked at; the first tells nearly all.")]
SeedsPerPrompt = Annotated[int, Field(ge=1, le=32, description="Starting noises that a score is the mean over.")]


class GalleryRequest(StrictBody):
    """A gallery to build."""

    dataset: Identifier
    seed: Seed = 0


class CalibrationRequest(StrictBody):
    """A calibration to make; screenings with the same steps, seeds and seed are judged by it."""

    model: Identifier
    dataset: Identifier
    false_positive_rate: float = Field(default=0.01, gt=0, le=0.5, description="Share of control prompts that may be called memorized.")
    signals: Signals = Field(default=["noise_magnitude"])
    steps: Steps = 1
    seeds_per_prompt: SeedsPerPrompt = 4
    seed: Seed = 0


class ScreeningRequest(StrictBody):
    """Prompts to judge before anything is drawn."""

    model: Identifier
    prompts: list[Prompt] = Field(min_length=1, max_length=64)
    steps: Steps = 1
    seeds_per_prompt: SeedsPerPrompt = 4
    seed: Seed = 0
    signals: Signals = Field(default=["noise_magnitude"])
    explain: bool = Field(default=False, description="Whether to say which words carry the score; costs a backward pass a prompt and seed.")


class Token(BaseModel):
    """A word and its share of the score; the shares of one prompt sum to 1."""

    text: str
    weight: float


class ScreeningResult(BaseModel):
    """The verdict on one prompt."""

    decision: Literal["allow", "mitigate", "block"]
    score: float = Field(description="Larger is more memorized.")
    p_value: float = Field(description="Share of control prompts that score at least as high, never 0.")
    threshold: float = Field(description="From this score on the decision is no longer `allow`.")
    signals: dict[str, float]
    tokens: list[Token] | None = Field(description="With `explain`: the words in order.")
    reasons: list[str]


class ScreeningAnswer(BaseModel):
    """The verdicts in the order of the prompts."""

    results: list[ScreeningResult]
    calibration: str = Field(description="The calibration that the verdicts rest on.")
    control_median: float = Field(description="What an ordinary control prompt scores.")


class MatchRequest(StrictBody):
    """Images to look for among the training films of a data set."""

    dataset: Identifier
    images: list[str] = Field(min_length=1, max_length=64, description="PNG pictures in base64.")
    k: int = Field(default=5, ge=1, le=50, description="Films shown for each image.")
    prompts: list[Prompt] | None = Field(
        default=None, min_length=1, max_length=64, description="One an image; with them, agreements are answered."
    )


class Neighbour(BaseModel):
    """A training film that an image resembles."""

    record: int
    patient: str
    similarity: float = Field(description="Correlation of the copy codes, -1 to 1.")
    identity_similarity: float = Field(description="Correlation of the identity codes, -1 to 1.")
    tile_distance: float = Field(description="Largest root-mean-square difference over a 4x4 grid of tiles, 0 to 1.")
    verdict: Literal["copy", "same_patient", "template", "none"]


class MatchAgreement(BaseModel):
    """How much of what the prompt asks for the finding reader sees."""

    value: float | None = Field(
        description="Dice overlap of asked and seen, 0 to 1; null for a prompt that asks for nothing that can be seen."
    )
    asked: list[list[str]]
    seen: list[list[str]]


class MatchAnswer(BaseModel):
    """The nearest films of each image, copies first, then by similarity."""

    matches: list[list[Neighbour]]
    verdicts: list[Literal["copy", "same_patient", "template", "none"]] = Field(description="The gravest verdict on each image.")
    thresholds: dict[str, float] = Field(description="A copy has at least similarity `copy` and at most `tile_distance`.")
    gallery: str
    agreements: list[MatchAgreement] | None
