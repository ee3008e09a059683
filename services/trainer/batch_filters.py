"""Batch filters: which samples of a batch count, so that what is being learnt by heart is left out. B batch, T timesteps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from services.trainer.filter_rules import AntiGradientRule, MagnitudeRule
from shared.diffusion.checkpoints import State
from shared.diffusion.model import Model

QUANTILE: Final = 0.9  # as MemControl's `auto`: the tenth of each batch with the largest magnitudes is dropped
AGC_SCALE: Final = 1.25  # λ for Stable Diffusion: below 80 % of the mean is left out (Liu et al. 2024)
AGC_DECAY: Final = 0.8  # γ


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


class AntiGradientFilter:
    """Drops samples whose loss is far below what their timestep usually has: λ l < b[t] (anti-gradient control, Liu et al. 2024).

    Afterwards each sample in order, kept or not, moves its timestep's mean: b[t] ← γ b[t] + (1−γ) l. A timestep that was never
    visited has b = 0 and drops nothing.
    """

    def __init__(self, timesteps: int, device: torch.device, *, scale: float = AGC_SCALE, decay: float = AGC_DECAY) -> None:
        """An empty bank; `scale` is λ, `decay` is γ."""
        self.scale = scale
        self.decay = decay
        self.bank_T = torch.zeros(timesteps, device=device)

    def __call__(self, batch: JudgedBatch) -> Tensor:
        """Judge the batch by the bank as it was before, then update it; nothing is read from the device."""
        t_B, losses_B = batch.timesteps_B, batch.losses_B
        before_B = self.bank_T[t_B]
        kept_B = self.scale * losses_B >= before_B
        # The same timestep may come several times: after c updates b is γ^c b plus each (1−γ) l times γ for every later one.
        same_BB = t_B[:, None] == t_B[None, :]
        later_B = same_BB.triu(1).sum(1)
        moved_B = (1 - self.decay) * self.decay**later_B * losses_B
        # All samples of one timestep compute, and write, the same number.
        self.bank_T[t_B] = self.decay ** same_BB.sum(1) * before_B + (same_BB * moved_B[None, :]).sum(1)
        return kept_B

    def state(self) -> State:
        """The bank."""
        return State({"bank": self.bank_T})

    def restore(self, state: State) -> None:
        """Go on with a kept bank."""
        self.bank_T.copy_(state.tensors["bank"])


def open_batch_filter(rule: MagnitudeRule | AntiGradientRule) -> Callable[[Model], BatchFilter]:
    """What makes the filter that a training job asks for."""

    def open_for(model: Model) -> BatchFilter:
        if rule.kind == "anti_gradient":
            return AntiGradientFilter(len(model.alphas_cumprod), model.device, scale=rule.scale, decay=rule.decay)
        return MagnitudeFilter(rule.threshold, QUANTILE if rule.quantile is None else rule.quantile)

    return open_for
