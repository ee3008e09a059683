"""What a training job is told of ensembles; free of tensor libraries, so that the HTTP surface can read it."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from shared.http.bodies import StrictSpec

STAYING_ROUNDS: Final = 2  # after so many first rounds, and after the last one, every film stays in its shard


class EnsembleRule(StrictSpec):
    """Several models learn apart, on films of different patients, and are averaged after each round (IET, Liu et al. 2024)."""

    kind: Literal["iet"]
    shards: int = Field(default=4, ge=1, le=64, description="Models, and parts that the patients are dealt into; 1 is plain training.")
    rounds: int = Field(default=10, ge=1, le=1000, description="How often the models are averaged; the last average is the model.")
    redistribute: float | None = Field(
        default=None,
        gt=0,
        le=0.5,
        description="Share of each shard's patients, those whose samples the batch filter left out most, that change places with the "
        "least left out of the next shard after a round, but the first two and the last; 0.05 for IET-AGC+. null moves nobody.",
    )
    parallel: int = Field(default=1, ge=1, le=64, description="Shards that learn at once, each in a process of its own.")

    @field_validator("redistribute")
    @classmethod
    def _require_rounds_to_move_in(cls, share: float | None, info: ValidationInfo) -> float | None:
        """Nobody would move."""
        if share is not None and info.data.get("shards") == 1:
            raise ValueError("patients move between shards, and there is one")
        if share is not None and (rounds := info.data.get("rounds")) is not None and rounds < STAYING_ROUNDS + 2:
            raise ValueError(f"nobody moves after the first two rounds and the last; take {STAYING_ROUNDS + 2} rounds or more")
        return share

    @field_validator("parallel")
    @classmethod
    def _require_enough_shards(cls, parallel: int, info: ValidationInfo) -> int:
        """What is not there does not learn."""
        if (shards := info.data.get("shards")) is not None and parallel > shards:
            raise ValueError(f"there are {shards} shards to learn at once")
        return parallel

    def moves_after(self, done: int) -> bool:
        """Whether patients change places once so many rounds are done."""
        return self.redistribute is not None and STAYING_ROUNDS < done < self.rounds
