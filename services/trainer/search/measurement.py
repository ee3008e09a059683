"""What a model scores by the figures that a search asks for: the base once, every trial at its rungs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.trainer.search.search_spec import SearchSpec
from shared.diffusion.model import Model
from shared.errors import ConflictError
from shared.memorization.rewards.evaluation import measure
from shared.memorization.rewards.reference import Reference
from shared.memorization.rewards.registry import open_rewards
from shared.memorization.statistics import Estimate


def measured(whose: str, model: Model, reference: Reference, spec: SearchSpec, check: Callable[[], None]) -> dict[str, Estimate]:
    """All figures, which must be numbers. `check` is called before every pass of the denoiser, and may raise to stop."""
    with _checked(model, check):
        values = measure(model, reference, spec.evaluation, open_rewards(spec.rewards))
    for name, estimate in values.items():
        if not all(map(math.isfinite, (estimate["value"], estimate["low"], estimate["high"]))):
            raise ConflictError(f"The {whose}'s {name} is no finite number; its training may have diverged.")
    return values


@contextmanager
def _checked(model: Model, check: Callable[[], None]) -> Iterator[None]:
    hook = model.unet.register_forward_pre_hook(lambda *_told: check())
    try:
        yield
    finally:
        hook.remove()
