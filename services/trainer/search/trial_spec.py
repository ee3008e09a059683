"""What the job of one trial is told, and what it is called; free of tensor libraries."""

from __future__ import annotations

import re
from typing import Final

from pydantic import Field

from services.trainer.search.search_spec import SearchSpec
from services.trainer.search.space import Choice
from services.trainer.training_spec import TrainingSpec
from shared.http.bodies import StrictSpec
from shared.memorization.rewards.names import Direction

KIND: Final = "trial"
_JOB_ID: Final = re.compile(r"(.+)t\d{4}")


class TrialSpec(StrictSpec):
    """One choice of a search, as the training that it stands for; what it is measured against lies with the search's files."""

    search: str = Field(description="The search job's id.")
    number: int = Field(ge=0)
    choice: Choice
    training: TrainingSpec
    spec: SearchSpec
    directions: dict[str, Direction] = Field(description="Of the search's rewards, some of which may be of other distributions.")
    torch_threads: int = Field(ge=1, description="As many as the first attempt computes with: another number may round otherwise.")


def trial_job_id(search: str, number: int) -> str:
    """The same at every attempt at the search, so that what was done is found again; and fit to name a model after."""
    return f"{trial_jobs_of(search)}{number:04d}"


def trial_jobs_of(search: str) -> str:
    """What the ids of all jobs of a search's trials begin with."""
    return f"{search}t"


def search_of(job_id: str) -> str | None:
    """The search that a trial's job belongs to; None where no trial's is called so."""
    named = _JOB_ID.fullmatch(job_id)
    return None if named is None else named[1]
