"""What the job of one shard in one round is told, and what it is called; free of tensor libraries."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from services.trainer.ensemble.rules import EnsembleRule
from services.trainer.training_spec import TrainingSpec
from shared.http.bodies import StrictSpec

KIND: Final = "shard"
_FOLDER: Final = "shards"


class ShardSpec(StrictSpec):
    """One shard's part of one round; what it begins with lies in a checkpoint of the training that it belongs to."""

    training: str = Field(description="The training job's id.")
    spec: TrainingSpec
    round: int = Field(ge=1)
    shard: int = Field(ge=0)
    begins_with: int = Field(ge=0, description="Step of the training's checkpoint that holds the average and every film's shard.")
    torch_threads: int = Field(ge=1, description="As many as the training job computes with: another number may round otherwise.")

    @property
    def rule(self) -> EnsembleRule:
        """The ensemble's; ValueError of a training without one."""
        if self.spec.ensemble is None:
            raise ValueError("a training without an ensemble has no shards")
        return self.spec.ensemble


def shard_job_id(training: str, number: int, shard: int) -> str:
    """The same at every attempt at the training, so that what was done is found again."""
    return f"{shard_jobs_of(training)}r{number}-s{shard}"


def shard_jobs_of(training: str) -> str:
    """What the ids of all jobs of a training's shards begin with."""
    return f"{training}-"


def shards_folder(training: str) -> str:
    """Where the states of a training's shards lie, below the folder of checkpoints."""
    return f"{training}/{_FOLDER}"


def shard_folder(training: str, shard: int) -> str:
    """Where one shard's states lie, those of all rounds."""
    return f"{shards_folder(training)}/{shard}"
