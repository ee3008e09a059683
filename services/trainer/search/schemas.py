"""Searches on the wire."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from services.trainer.ensemble.rules import EnsembleRule
from services.trainer.parameters.kinds import AnyParameters, FullParameters
from services.trainer.search.search_spec import SearchSpec
from services.trainer.search.trial import Trial
from services.trainer.training_spec import TrainingSpec
from shared.http.bodies import StrictBody

PictureName = Literal["front", "masks", "hypervolume"]


class SearchRequest(StrictBody, SearchSpec):
    """A search to begin."""


class Trials(BaseModel):
    """What a search tried so far, in the order of its numbers."""

    trials: list[Trial]


class AppliedTraining(TrainingSpec):
    """What is to be other than in the search; what is left out is as there."""

    base: str | None = Field(
        default=None, min_length=1, max_length=64, description="A model with the attention modules of the search's; left out, that one."
    )
    parameters: AnyParameters = Field(default=FullParameters(), description="Those that were found: leave them out.")
    found_by: None = Field(default=None, description="Filled in; leave it out.")

    @field_validator("parameters")
    @classmethod
    def _require_what_was_found_open(cls, parameters: AnyParameters) -> AnyParameters:
        """They are what is applied."""
        if parameters != FullParameters():
            raise ValueError("a search is applied for the parameters that it found; leave them out")
        return parameters

    @field_validator("ensemble")
    @classmethod
    def _require_rounds_of_steps(cls, rule: EnsembleRule | None, info: ValidationInfo) -> EnsembleRule | None:
        """Of the training as a whole: what is left out here is the search's, and not a training's default."""
        del info
        return rule


class ApplyRequest(StrictBody):
    """A point of a search to train with."""

    training: AppliedTraining
    trial: int | None = Field(default=None, ge=0, le=999, description="A trial that succeeded; null is the recommended one.")

    @field_validator("training")
    @classmethod
    def _require_some_base(cls, training: AppliedTraining) -> AppliedTraining:
        """Null would be random weights, of which no part is left as it is."""
        if "base" in training.model_fields_set and training.base is None:
            raise ValueError("leave base out for the search's own, or name a model")
        return training

    @property
    def wishes(self) -> dict[str, Any]:
        """What was said of the training, and nothing else."""
        return self.training.model_dump(mode="json", include=self.training.model_fields_set - {"parameters", "found_by"})
