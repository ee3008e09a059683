"""The trainer on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Self

from pydantic import BaseModel, Field

from services.trainer.dataset_spec import DatasetSpec
from services.trainer.import_spec import ImportSpec
from services.trainer.training_spec import TrainingSpec
from shared.http.bodies import StrictBody
from shared.http.paging import PageQuery
from shared.imaging.films import FilmFacts
from shared.imaging.splits import Fold, Split


class DatasetRequest(StrictBody, DatasetSpec):
    """A data set to register."""


class TrainingRequest(StrictBody, TrainingSpec):
    """A model to train."""

    found_by: None = Field(default=None, description="Filled in where a search is applied; leave it out.")


class ImportRequest(StrictBody, ImportSpec):
    """A diffusers folder to import."""


class RecordsQuery(PageQuery):
    """Which records, and how many at a time."""

    split: Split | None = Field(default=None, description="Only the films of this split.")


class Record(BaseModel):
    """One film without its picture."""

    record: int = Field(description="The film's number in the data set, from 0.")
    prompt: str
    patient: str
    study: str
    view: str
    sex: str
    age: int | None
    split: Split
    fold: Fold = Field(description="Of control films: whether thresholds are set on them or measured on them.")
    repeats: int = Field(description="How often an epoch shows the film.")
    sha256: str = Field(description="Of the PNG that …/image answers.")
    labels: dict[str, int | None] = Field(description="1 present, 0 absent, -1 uncertain, null not mentioned.")

    @classmethod
    def of(cls, facts: FilmFacts) -> Self:
        """The record of a film."""
        return cls.model_validate({name: value for name, value in asdict(facts).items() if name in cls.model_fields})


class LossPoint(BaseModel):
    """A point of a loss curve."""

    step: int = Field(description="The last step that the mean is over.")
    loss: float = Field(description="Mean loss since the point before.")


class LossCurve(BaseModel):
    """The losses of one phase of a training, at most 500 points."""

    phase: str = Field(description="autoencoder, text encoder or denoiser.")
    steps: int = Field(description="Steps of the phase so far.")
    points: list[LossPoint]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        """The curve of a job's losses.json."""
        points = [LossPoint(step=step, loss=loss) for step, loss in stored["points"]]
        return cls(phase=stored["phase"], steps=stored["steps"], points=points)


class LossCurves(BaseModel):
    """The loss curves of a training job, the running phase's included."""

    curves: list[LossCurve]


class ValidationStrips(BaseModel):
    """The pictures that a training job drew on its way."""

    steps: list[int] = Field(description="After which steps; each strip is at …/validation/{step}.")


class Alias(BaseModel):
    """A movable name of a model."""

    alias: str
    model: str
