"""The fields of the contract that clients rely on; what services add besides is kept or ignored, never refused."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Reply(BaseModel):
    """Something a service answered; unknown fields are kept, so that `--json` shows them."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Progress(Reply):
    """How far an operation is."""

    step: int = 0
    total: int = 0
    message: str = ""
    values: dict[str, Any] = Field(default_factory=dict)


class Operation(Reply):
    """Long work and what became of it."""

    id: str
    kind: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    progress: Progress = Field(default_factory=Progress)
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def is_settled(self) -> bool:
        """Whether it ended, one way or another."""
        return self.state in {"succeeded", "failed", "cancelled"}


class Film(Reply):
    """A record of a data set."""

    record: int
    prompt: str
    patient: str
    split: str
    fold: str = ""
    view: str = ""
    repeats: int = 1
    sha256: str = ""


class Image(Reply):
    """A generated image."""

    prompt_index: int
    seed: int
    png: str | None = None
    uri: str | None = None
    sha256: str = ""


class Generation(Reply):
    """The images of one request, by prompt and then by seed."""

    id: str
    images: list[Image]


class Word(Reply):
    """A word of a prompt and the share of the score that it carries."""

    text: str
    weight: float


class Verdict(Reply):
    """What the screening says of one prompt."""

    decision: Literal["allow", "mitigate", "block"]
    score: float
    p_value: float
    threshold: float
    tokens: list[Word] | None = None
    reasons: list[str] = Field(default_factory=list)


class Screening(Reply):
    """The verdicts of one request, in the order of its prompts."""

    results: list[Verdict]
    calibration: str


class Neighbour(Reply):
    """A training film that an image resembles."""

    record: int
    patient: str
    similarity: float
    verdict: Literal["copy", "same_patient", "template", "none"]


class Agreement(Reply):
    """How much of what a prompt asked for the finding reader sees in its image."""

    value: float | None
    asked: Any = None
    seen: Any = None


class Matching(Reply):
    """The nearest training films of each image; the judged-most-alike first."""

    matches: list[list[Neighbour]]
    verdicts: list[str]
    thresholds: dict[str, float] = Field(default_factory=dict)
    agreements: list[Agreement | None] | None = None


class Strategy(Reply):
    """A mitigation and what it costs."""

    name: str


class Evidence(Reply):
    """What a mitigation did to one image, and what the detector says of the outcome."""

    strategy: str
    score_before: float | None = None
    score_after: float | None = None
    similarity_before: float | None = None
    similarity_after: float | None = None
    prompt_fidelity: float | None = None
    verdict_before: str | None = None
    verdict_after: str | None = None


class SafeImage(Image):
    """An image that passed the mitigator, with its evidence."""

    evidence: Evidence


class SafeGeneration(Reply):
    """The images of one mitigated request."""

    id: str
    images: list[SafeImage]


class Figures(Reply):
    """What was measured at a rung."""

    step: int
    values: dict[str, dict[str, float]] = Field(default_factory=dict)


class Trial(Reply):
    """A training that a search tried; `values` once it has come to its end."""

    number: int
    state: Literal["running", "succeeded", "pruned", "failed", "cancelled"]
    choice: dict[str, Any]
    rungs: list[Figures] = Field(default_factory=list)
    values: dict[str, dict[str, float]] | None = None
    reason: str | None = None
    model: str | None = None
