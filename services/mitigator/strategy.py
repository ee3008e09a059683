"""What a mitigation strategy is: a change of the plan by which one prompt's images are drawn. Strategies compose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from shared.diffusion.guidance import GuidanceRecipe, PlainGuidance
from shared.diffusion.model import Conditioning, Model
from shared.memorization.magnitude import UnconditionalCache, prompt_scores, screen


class StrategyParameters(BaseModel):
    """A strategy's parameters: strict, nothing unknown, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


@dataclass(frozen=True, eq=False)  # one plan is another only if it is the same object: tensors do not compare
class Plan:
    """How one prompt's images will be drawn, and what was changed on the way here."""

    prompt: str
    conditioning: Conditioning  # one prompt
    make_guidance: GuidanceRecipe
    first_scale: float  # the guidance scale in force at step 0
    strategies: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    forwards: int = 0  # UNet rows spent on planning, backward passes counted as two

    def changed(self, strategy: str, *, forwards: int = 0, changes: Sequence[str] = (), **fields: Any) -> Plan:
        """The plan after a strategy, which is named in it together with what it gave up."""
        history: dict[str, Any] = {"strategies": (*self.strategies, strategy), "changes": (*self.changes, *changes)}
        return replace(self, forwards=self.forwards + forwards, **history, **fields)


@dataclass(frozen=True)
class Workbench:
    """What strategies work with: the model, the calibrated figures, and the noises of the screening."""

    model: Model
    cache: UnconditionalCache
    threshold: float  # scores from here on are called memorized
    target: float  # the score of an ordinary prompt: the median of the control prompts
    guidance_scale: float
    screening_seeds: Sequence[int]
    screening_steps: int = 1

    def plain(self, prompt: str) -> Plan:
        """The plan without any mitigation."""
        scale = self.guidance_scale
        return Plan(prompt, self.model.encode([prompt]), PlainGuidance(scale), first_scale=scale)

    def scores(self, conditioning: Conditioning) -> Tensor:
        """The memorization score of each conditioning, by the detector's own function and seeds."""
        magnitudes = screen(self.model, conditioning, self.screening_seeds, steps=self.screening_steps, cache=self.cache)
        return prompt_scores(magnitudes)

    def screening_cost(self, prompts: int) -> int:
        """UNet rows of scoring so many prompts."""
        return prompts * len(self.screening_seeds) * (2 * self.screening_steps - 1)

    def applied_score(self, plan: Plan) -> float:
        """How far the plan lets the prompt pull at step 0, in units of d: ‖ε̂ − ε_u‖ / w averaged over the screening's noises.

        For plain guidance this is the prompt's score; a rule that starts with another scale w₀ pulls |w₀ / w| as far.
        """
        share = abs(plan.first_scale / self.guidance_scale) if self.guidance_scale else 0.0
        return float(self.scores(plan.conditioning)[0]) * share


class Strategy(Protocol):
    """A named change of plan with typed parameters and a known cost."""

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    cost: ClassVar[str]  # in forward passes F of the UNet on one latent, beyond plain generation

    def apply(self, plan: Plan, bench: Workbench) -> Plan:
        """The changed plan; the same plan where the strategy finds nothing to change."""
        ...
