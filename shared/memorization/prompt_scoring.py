"""The screening score of many prompts: the magnitude of the noise prediction at the first steps, over shared noises.

P prompts, S seeds, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from shared.diffusion.model import Model
from shared.errors import ConflictError
from shared.memorization.magnitude import UnconditionalCache, prompt_scores, screen, screening_seeds

PROMPTS_AT_ONCE: Final = 32


@dataclass(frozen=True, kw_only=True)
class ScreeningSettings:
    """What of a screening the score depends on beside model and prompt."""

    steps: int
    seeds_per_prompt: int
    seed: int

    @property
    def seeds(self) -> list[int]:
        """The seeds of the starting noises."""
        return screening_seeds(self.seed, self.seeds_per_prompt)


def score_prompts(
    model: Model, prompts: Sequence[str], settings: ScreeningSettings, on_batch: Callable[[int], None] = lambda _done: None
) -> list[float]:
    """The score of each prompt, in batches; `on_batch` may raise to stop."""
    cache = UnconditionalCache()
    scores: list[float] = []
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        conditioning = model.encode(prompts[start : start + PROMPTS_AT_ONCE])
        magnitudes = screen(model, conditioning, settings.seeds, steps=settings.steps, cache=cache)
        scores += require_finite(prompt_scores(magnitudes).tolist())
        on_batch(len(scores))
    return scores


def require_finite(scores: list[float]) -> list[float]:
    """The same scores; a model that answers no numbers can be judged neither safe nor unsafe."""
    if not all(map(math.isfinite, scores)):
        raise ConflictError("The model's noise prediction is no finite number, so that its prompts cannot be screened; train it anew.")
    return scores
