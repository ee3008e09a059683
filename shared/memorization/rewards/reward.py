"""What a reward is: a named figure of a trained model with a direction, and what it speaks of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from shared.memorization.rewards.names import Direction
from shared.memorization.statistics import Estimate

if TYPE_CHECKING:
    from shared.memorization.rewards.evaluation import Evaluation

Aspect = Literal["memorization", "quality"]

__all__ = ["Aspect", "Direction", "Reward"]


@runtime_checkable
class Reward(Protocol):
    """Reads its figure off an evaluation, whose images, codes and predictions all rewards share."""

    @property
    def name(self) -> str:
        """What it is asked for by."""
        ...

    @property
    def direction(self) -> Direction:
        """Whether less or more of it is better."""
        ...

    @property
    def aspect(self) -> Aspect:
        """Whether it says how much was learnt by heart or how good the images are."""
        ...

    def __call__(self, evaluation: Evaluation) -> Estimate:
        """The figure with its interval."""
        ...
