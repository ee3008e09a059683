"""Batch filters: which samples of a batch count, so that what is being learnt by heart is left out. B batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from services.trainer.training_spec import MagnitudeRule
from shared.diffusion.model import Model

QUANTILE: Final = 0.9  # as MemControl's `auto`: the tenth of each batch with the largest magnitudes is dropped


@dataclass(frozen=True)
class JudgedBatch:
    """What a batch filter may look at; nothing here has a gradient."""

    losses_B: Tensor  # mean squared errors, not weighted
    timesteps_B: Tensor
    dropped_B: Tensor  # whose prompt was left out
    magnitudes_B: Callable[[], Tensor]  # ‖ε_c − ε_u‖₂; each call costs an unconditional forward


class BatchFilter(Protocol):
    """Which samples of a batch count; one that has a state is Resumable."""

    def __call__(self, batch: JudgedBatch) -> Tensor:
        """A boolean keep mask, B."""
        ...


@dataclass(frozen=True)
class MagnitudeFilter:
    """Drops samples whose prompt moves the prediction far: d ≥ τ, or d above a quantile of the batch (Wen et al. 2024, section 4.3).

    Where the prompt was left out, d is 0: such samples are kept, and no quantile is taken of them.
    """

    threshold: float | None = None
    quantile: float = QUANTILE

    def __call__(self, batch: JudgedBatch) -> Tensor:
        """Keep what is below."""
        d_B = batch.magnitudes_B()
        if self.threshold is not None:
            return batch.dropped_B | (d_B < self.threshold)
        limit = torch.nanquantile(d_B.masked_fill(batch.dropped_B, torch.nan), self.quantile)
        return batch.dropped_B | (d_B <= limit)


def open_batch_filter(rule: MagnitudeRule) -> Callable[[Model], BatchFilter]:
    """What makes the filter that a training job asks for."""
    quantile = QUANTILE if rule.quantile is None else rule.quantile
    return lambda _model: MagnitudeFilter(rule.threshold, quantile)
