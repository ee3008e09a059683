"""How the conditional and the unconditional prediction become one: guidance rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from shared.diffusion.denoise import Step


class Guidance(Protocol):
    """A rule ε̂ = f(step); it may keep state of its own, per image."""

    @property
    def needs_unconditional(self) -> bool:
        """Whether ε_u must be computed (it costs one forward pass a step)."""
        ...

    def __call__(self, step: Step) -> Tensor:
        """The guided noise prediction, B×C×H×W."""
        ...


class GuidanceRecipe(Protocol):
    """Makes a fresh rule for each run, because rules may keep state; equal recipes make equal rules, so that runs can share a pass."""

    def __call__(self) -> Guidance:
        """A rule that has seen no step."""
        ...

    def __hash__(self) -> int:
        """Equal for equal recipes."""
        ...


@dataclass(frozen=True)
class ClassifierFreeGuidance:
    """ε̂ = ε_u + w (ε_c − ε_u) (Ho & Salimans 2022); w = 1 is the conditional prediction alone."""

    scale: float

    @property
    def needs_unconditional(self) -> bool:
        """At w = 1 the unconditional half cancels."""
        return self.scale != 1.0

    def __call__(self, step: Step) -> Tensor:
        """The guided noise prediction."""
        if not self.needs_unconditional:
            return step.eps_cond
        return step.eps_uncond + self.scale * (step.eps_cond - step.eps_uncond)


@dataclass(frozen=True)
class PlainGuidance:
    """The recipe of classifier-free guidance."""

    scale: float

    def __call__(self) -> ClassifierFreeGuidance:
        """The rule, which keeps no state."""
        return ClassifierFreeGuidance(self.scale)
