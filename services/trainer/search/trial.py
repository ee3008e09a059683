"""What is known of one trial of a search: what it tried, how far it came, what was measured; JSON both ways."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.trainer.search.space import Choice
from shared.http.bodies import StrictSpec
from shared.memorization.statistics import Estimate

State = Literal["running", "succeeded", "pruned", "failed", "cancelled"]


class Rung(StrictSpec):
    """What was measured after so many steps."""

    step: int = Field(ge=1)
    values: dict[str, Estimate]


class Trial(StrictSpec):
    """A trial, from the moment its number is given out."""

    number: int = Field(ge=0)
    choice: Choice
    state: State = "running"
    rungs: list[Rung] = Field(default=[], description="Each with what was measured there, the last one included.")
    values: dict[str, Estimate] | None = Field(default=None, description="Of the whole training; null where it did not come to its end.")
    reason: str | None = Field(default=None, description="Why it did not come to its end.")
    model: str | None = Field(default=None, description="What was learnt, where it is on the front of the trials so far.")
    trainable_parameters: int | None = None
    trainable_fraction: float | None = None
    steps: int = Field(default=0, ge=0, description="Steps taken.")
    seconds: float = Field(default=0.0, ge=0)

    def figures(self) -> dict[str, float]:
        """What was measured at the end, without intervals; nothing where it did not come to its end."""
        return {} if self.values is None else {name: estimate["value"] for name, estimate in self.values.items()}
