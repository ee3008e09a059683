"""What the catalog holds of each thing: a manifest with its files, its lineage and what its kind adds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, model_validator

from shared.catalog.ids import Kind, is_id
from shared.errors import InvalidRequestError
from shared.storage import validate_key


def _check_path(path: str) -> str:
    """A file's path is part of a key, and of a place in the cache."""
    try:
        return validate_key(path)
    except InvalidRequestError as error:
        raise ValueError(str(error)) from error


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
NAME_LENGTH_MAX = 200
# A prompt may name a patient's findings; a generation keeps its keyed hash only.
_PROMPT_FIELDS = frozenset({"prompt", "prompts"})


class _Frozen(BaseModel):
    """Immutable, without unknown fields, without NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(_Frozen):
    """One file below a manifest's folder."""

    path: Annotated[str, AfterValidator(_check_path)]
    size_bytes: int = Field(ge=0)
    sha256: Sha256


class Manifest(_Frozen):
    """What every kind has; `files` and `digest` are filled in by the commit."""

    id: str
    kind: Kind
    created: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    name: str = Field(max_length=NAME_LENGTH_MAX)
    files: list[FileEntry] = []
    digest: Sha256 | Literal[""] = ""
    lineage: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _check_id(self) -> Self:
        """The id must be one of the manifest's kind."""
        if not is_id(self.kind, self.id):
            raise ValueError(f"id: not an id of a {self.kind}")
        return self


class DatasetPart(_Frozen):
    """One Parquet part of a data set: how many films it has, and of each split."""

    path: str
    rows: int = Field(ge=1)
    splits: dict[str, int]


class DatasetManifest(Manifest):
    """A data set: films in Parquet parts, split by patient; the later fields are empty in those of version 0.1."""

    kind: Literal["dataset"] = "dataset"
    image_size: int = Field(ge=1)
    counts: dict[str, int]
    patients: dict[str, int]
    prompt_uniqueness: dict[str, int]
    duplicates: int = Field(ge=0)
    warnings: list[str]
    labels: list[str]
    seed: int
    parts: list[DatasetPart] = []
    histograms: dict[str, dict[str, int]] = {}
    gates: dict[str, dict[str, JsonValue]] = {}
    left_out: int = Field(default=0, ge=0)


class ModelManifest(Manifest):
    """A model: a diffusers folder and how it came about."""

    kind: Literal["model"] = "model"
    architecture: str
    dataset: str | None
    base: str | None
    spec: dict[str, JsonValue]
    metrics: dict[str, JsonValue]
    status: Literal["candidate"] = "candidate"
    seed: int
    code_version: str


class GalleryManifest(Manifest):
    """A gallery: embeddings of a data set's training images, and the thresholds at which two images are one patient's."""

    kind: Literal["gallery"] = "gallery"
    dataset: str
    embedder: str
    thresholds: dict[str, float]
    metrics: dict[str, JsonValue]


class CalibrationManifest(Manifest):
    """A calibration: at what score a model's prompt is unlike the prompts that it cannot have memorized."""

    kind: Literal["calibration"] = "calibration"
    model: str
    dataset: str
    key: str
    false_positive_rate: float = Field(gt=0, lt=1)
    threshold: float
    control_median: float
    steps: int = Field(ge=1)
    seeds_per_prompt: int = Field(ge=1)
    signals: list[str]
    n_control: int = Field(ge=0)


class GenerationManifest(Manifest):
    """A stored generation: the images and what was asked, the prompts as keyed hashes only."""

    kind: Literal["generation"] = "generation"
    model: str
    request: dict[str, JsonValue]
    images: list[dict[str, JsonValue]]

    @model_validator(mode="after")
    def _check_request(self) -> Self:
        """Prompts are never stored."""
        if _PROMPT_FIELDS & self.request.keys():
            raise ValueError("request: holds a prompt; keep its HMAC only")
        return self


AnyManifest = DatasetManifest | ModelManifest | GalleryManifest | CalibrationManifest | GenerationManifest
MANIFEST_TYPES: dict[Kind, type[AnyManifest]] = {
    "dataset": DatasetManifest,
    "model": ModelManifest,
    "gallery": GalleryManifest,
    "calibration": CalibrationManifest,
    "generation": GenerationManifest,
}
