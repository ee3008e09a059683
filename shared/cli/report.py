"""What the demo's report holds, as `report.json` shows it; every rate is a figure with its 95 % interval and its number of cases."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.memorization.statistics import Estimate

Group = Literal["canary", "control"]


class Part(BaseModel):
    """A part of the report; no field is unknown, no number is NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Figure(Part):
    """A figure; without cases, or with too few of them to say anything, there is no value but a reason."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    reason: str | None = Field(default=None, exclude_if=lambda reason: reason is None)

    @classmethod
    def of(cls, estimate: Estimate) -> Figure:
        """A measured figure."""
        return cls(**estimate)

    @classmethod
    def missing(cls, n: int, reason: str) -> Figure:
        """A figure that cannot be told."""
        return cls(value=None, n=n, reason=reason)


class Curve(Part):
    """The points of a ROC curve."""

    false_positive_rate: list[float]
    true_positive_rate: list[float]


class Correlations(Part):
    """How score and similarity go together within one set of prompts."""

    spearman: Figure
    pearson: Figure


class Detection(Part):
    """How well the score tells canaries from controls, before anything is drawn."""

    auc: Figure
    tpr_at_1pct_fpr: Figure
    correlation: Figure = Field(description="Score against similarity over all sampled prompts, Spearman.")
    correlations: dict[Literal["all", "canary", "control"], Correlations] = Field(description="The same, also within each group.")
    canaries_flagged: Figure = Field(description="Canary prompts at or above the calibrated threshold.")
    controls_flagged: Figure = Field(description="Control prompts at or above it, of patients that it was not calibrated on.")
    threshold: float
    false_positive_rate: float = Field(description="What the threshold was calibrated for.")
    roc: Curve


class CopyRate(Part):
    """Images that are a copy of a training film."""

    canary_plain: Figure
    canary_mitigated: Figure = Field(description="Of the images that the mitigator released.")
    control_plain: Figure


class PromptAgreement(Part):
    """How much of what was asked for the finding reader sees."""

    canary_plain: Figure
    canary_mitigated: Figure
    control_plain: Figure


class Fidelity(Part):
    """Whether images show what was asked for."""

    prompt_agreement: PromptAgreement
    mitigated_over_control: float | None = Field(description="Agreement of mitigated canaries, as a share of what plain controls reach.")


class StrategyRow(Part):
    """What one strategy did for the canary prompts."""

    name: str
    summary: str = ""
    paper: str = ""
    cost: str = ""
    images: int = Field(description="Images asked for.")
    released: int
    refused: int = Field(description="Images that the mitigator refused to release.")
    copies: int = Field(description="Copies among the images drawn, those refused included.")
    copy_rate: Figure
    agreement: Figure = Field(description="Of the images drawn, those refused included.")
    seconds: float


class Weight(Part):
    """A word and its share of the score."""

    text: str
    weight: float


class Draw(Part):
    """One image and what the detector says of it."""

    seed: int
    similarity: float
    verdict: str
    nearest: int | None = Field(default=None, description="The training film that it resembles most.")
    agreement: float | None
    strategy: str | None = None
    changes: list[str] = []


class PromptRow(Part):
    """One prompt: how it was screened, what was drawn, and what mitigation made of it."""

    record: int
    patient: str
    group: Group
    prompt: str
    score: float
    p_value: float
    decision: str
    plain: list[Draw] = []
    mitigated: list[Draw] = []
    refused: str | None = Field(default=None, description="Why the mitigator released nothing.")
    words: list[Weight] = []

    @property
    def copies(self) -> int:
        """Copies among the plain images."""
        return sum(draw.verdict == "copy" for draw in self.plain)

    @property
    def similarity(self) -> float | None:
        """Mean similarity of the plain images to their nearest training films."""
        return sum(draw.similarity for draw in self.plain) / len(self.plain) if self.plain else None


class Target(Part):
    """A figure that the demo promises to reach."""

    name: str
    wanted: str
    reached: str
    met: bool | None = Field(description="Null when the figure could not be measured.")


class Machine(Part):
    """Where it was measured."""

    processor: str
    cores: int
    memory_bytes: int
    system: str


class Report(Part):
    """Everything that report.json holds."""

    created: str
    seed: int
    quick: bool = Field(description="A rehearsal: too few patients and steps for its figures to mean anything.")
    detection: Detection
    copy_rate: CopyRate
    refusal_rate: Figure = Field(description="Canary images asked of the mitigator that it did not release.")
    fidelity: Fidelity
    strategies: list[StrategyRow]
    targets: list[Target]
    seconds: dict[str, float]
    dataset: str
    model: str
    calibration: str
    thresholds: dict[str, float] = Field(description="What images were judged by, as the detector states it.")
    films: dict[str, int]
    patients: dict[str, int]
    training: dict[str, float]
    settings: dict[str, bool | int | float | str]
    versions: dict[str, str]
    machine: Machine
    prompts: list[PromptRow]


class Pictures(Part):
    """PNGs of one canary: its training film, the plain image most like it, and the mitigated one of the same seed."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    film: bytes
    plain: bytes
    mitigated: bytes | None


class ControlPictures(Part):
    """PNGs of one control: what was drawn, and the training film that it resembles most."""

    drawn: bytes
    nearest: bytes


class Gallery(Part):
    """The pictures of the page, by record of the prompt."""

    canaries: dict[int, Pictures]
    controls: dict[int, ControlPictures]
