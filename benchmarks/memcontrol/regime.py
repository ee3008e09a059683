"""How much is drawn, trained and looked at: the regime in which full fine-tuning copies many canaries, and its base none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from benchmarks.memorization.regime import Regime as MaterialRegime
from services.trainer.search.search_spec import Pruning, Range, SearchedKind
from shared.memorization.rewards.effort import Effort

OTHER_NOISES: Final = 1  # added to the seed of the measurement that nothing is chosen by


@dataclass(frozen=True)
class Rates:
    """The learning rates of each kind of parameters, lowest and highest; a sweep and a search try the same ones."""

    full: tuple[float, float] = (1e-4, 2e-3)
    bias_norm: tuple[float, float] = (2e-3, 5e-2)
    attention: tuple[float, float] = (3e-4, 1e-2)
    svdiff: tuple[float, float] = (2e-3, 5e-2)
    diffit: tuple[float, float] = (2e-3, 5e-2)
    lora: tuple[float, float] = (1e-4, 1e-2)


@dataclass(frozen=True)
class Regime:
    """Everything that all contenders have in common."""

    material: MaterialRegime = field(
        default_factory=lambda: MaterialRegime(patients=240, others=400, canaries=8, repeats=100, base_steps=1200)
    )
    steps: int = 150  # of a trial
    batch: int = 16
    trials: int = 16  # whose steps every contender may take
    points: int = 5  # rates of a kind
    rates: Rates = Rates()
    ranks: tuple[int, ...] = (2, 4, 8)
    rung: float = 0.3  # share of the steps after which pruning looks; an earlier look costs as long and says less
    keep: float = 0.5
    images_per_canary: int = 4
    control_prompts: int = 80
    sampling_steps: int = 10
    guidance: float = 4.0
    noises: int = 4
    judged_images: int = 8  # of a canary, where nothing is chosen any more
    judged_prompts: int = 96

    @property
    def budget(self) -> int:
        """Training steps of every contender."""
        return self.trials * self.steps

    def rates_of(self, kind: str) -> Range:
        """The rates that are tried with a kind."""
        low, high = getattr(self.rates, kind)
        return Range(low=low, high=high, points=self.points)

    def searched_rates(self) -> dict[SearchedKind, Range]:
        """Those of the kinds that a search chooses among."""
        kinds: tuple[SearchedKind, ...] = ("svdiff", "diffit", "attention", "lora")
        return {kind: self.rates_of(kind) for kind in kinds}

    def pruning(self) -> Pruning:
        """When a trial of the search that prunes is ended."""
        return Pruning(rungs=[self.rung], keep=self.keep)

    def effort(self, seed: int, *, held_out: bool = False) -> Effort:
        """How thoroughly trainings are measured; held out, by other prompts, other noises, and more of both."""
        return Effort(
            images_per_canary=self.judged_images if held_out else self.images_per_canary,
            control_prompts=self.judged_prompts if held_out else self.control_prompts,
            sampling_steps=self.sampling_steps,
            guidance_scale=self.guidance,
            noises=self.noises,
            seed=seed + (OTHER_NOISES if held_out else 0),
        )


FULL: Final = Regime()
QUICK: Final = Regime(
    material=MaterialRegime(patients=40, others=16, canaries=3, repeats=10, base_steps=8, image_size=16),
    steps=6,
    trials=4,
    points=2,
    images_per_canary=2,
    control_prompts=8,
    sampling_steps=2,
    noises=1,
    judged_images=2,
    judged_prompts=8,
)
