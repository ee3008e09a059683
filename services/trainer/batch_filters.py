"""Batch filters: which samples of a batch count, so that what is being learnt by heart is left out. B batch, T timesteps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from services.trainer.filter_rules import AGC_DECAY, AGC_SCALE, AntiGradientRule, MagnitudeRule
from shared.diffusion.checkpoints import State
from shared.diffusion.model import Model

QUANTILE: Final = 0.9  # as MemControl's `auto`: the tenth of each batch with the largest magnitudes is dropped
TIMESTEPS_PER_BIN: Final = 50  # whose magnitudes have a quantile in common; as the next two, our reconstruction
QUANTILE_GAIN: Final = 0.1  # a sample above its limit moves it by 9 %, one below by 1 %
WARM_VISITS: Final = 50  # before which a bin's quantile is not known well enough to drop by
NEAR: Final = 2  # a filter's verdict on a sample that is kept, and whose film is to be shown changed at its next visit


@dataclass(frozen=True)
class JudgedBatch:
    """What a batch filter may look at; nothing here has a gradient."""

    losses_B: Tensor  # mean squared errors, not weighted
    timesteps_B: Tensor
    dropped_B: Tensor  # whose prompt was left out
    magnitudes_B: Callable[[], Tensor]  # ‖ε_c − ε_u‖₂; each call costs an unconditional forward


class BatchFilter(Protocol):
    """Which samples of a batch count; one that has a state is Resumable.

    What is no number is kept, so that the training sees that it diverged: filters ask what is beyond a limit, not what is within.
    """

    def __call__(self, batch: JudgedBatch) -> Tensor:
        """A keep mask, B: boolean, or of whole numbers where some are NEAR."""
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
            return batch.dropped_B | ~(d_B >= self.threshold)
        limit = torch.nanquantile(d_B.masked_fill(batch.dropped_B, torch.nan), self.quantile)
        return batch.dropped_B | ~(d_B > limit)


class TimestepMagnitudeFilter:
    """Drops samples whose d is above the running quantile of their timestep's bin: d depends on t, and one limit would drop by t.

    The quantile p of ln d is followed by stochastic approximation of its pinball loss (Robbins & Monro 1951): after a batch,
    ln q ← ln q + η (samples above − (1−p) samples), η = max(gain, 1/visits), from the largest of the bin's first batch on. As ln q
    stays bounded, the share above it tends to 1−p whatever d's scale, and while it drifts. Samples without a prompt are kept
    and not counted, like those whose prompt moves nothing.
    """

    def __init__(self, timesteps: int, device: torch.device, quantile: float = QUANTILE) -> None:
        """Nothing known of any bin."""
        self.quantile = quantile
        bins = math.ceil(timesteps / TIMESTEPS_PER_BIN)
        self.limits_K = torch.zeros(bins, device=device)  # ln q
        self.visits_K = torch.zeros(bins, dtype=torch.int64, device=device)

    def __call__(self, batch: JudgedBatch) -> Tensor:
        """Judge the batch by the limits as they were before, then move them; nothing is read from the device."""
        bins_B = batch.timesteps_B // TIMESTEPS_PER_BIN
        logs_B = batch.magnitudes_B().log()
        counted_B = ~batch.dropped_B & (logs_B > -torch.inf)
        above_B = counted_B & (logs_B > self.limits_K[bins_B])
        kept_B = ~above_B | (self.visits_K[bins_B] < WARM_VISITS)
        counts_K = torch.zeros_like(self.visits_K).index_add_(0, bins_B, counted_B.long())
        above_K = torch.zeros_like(self.visits_K).index_add_(0, bins_B, above_B.long())
        gain_K = (1 / self.visits_K).clamp(min=QUANTILE_GAIN)
        known_B = logs_B.masked_fill(~counted_B, -torch.inf)
        largest_K = torch.full_like(self.limits_K, -torch.inf).scatter_reduce_(0, bins_B, known_B, "amax")
        moved_K = self.limits_K + gain_K * (above_K - (1 - self.quantile) * counts_K)
        self.limits_K = torch.where(self.visits_K > 0, moved_K, torch.where(counts_K > 0, largest_K, 0.0))
        self.visits_K = self.visits_K + counts_K
        return kept_B

    def state(self) -> State:
        """The running quantiles and of how many samples they are."""
        return State({"limits": self.limits_K, "visits": self.visits_K})

    def restore(self, state: State) -> None:
        """Go on with kept quantiles."""
        self.limits_K.copy_(state.tensors["limits"])
        self.visits_K.copy_(state.tensors["visits"])


class AntiGradientFilter:
    """Drops samples whose loss is far below what their timestep usually has: λ l < b[t] (anti-gradient control, Liu et al. 2024).

    Afterwards each sample in order, kept or not, moves its timestep's mean: b[t] ← γ b[t] + (1−γ) l. A timestep that was never
    visited has b = 0 and drops nothing. With a `margin` δ those of l/b from 1/λ to 1/λ + δ are NEAR. From the timestep `until` on
    nothing is dropped or near, a published variant.
    """

    def __init__(
        self,
        timesteps: int,
        device: torch.device,
        *,
        scale: float = AGC_SCALE,
        decay: float = AGC_DECAY,
        margin: float | None = None,
        until: int | None = None,
    ) -> None:
        """An empty bank; `scale` is λ, `decay` is γ."""
        self.scale = scale
        self.decay = decay
        self.margin = margin
        self.until = until
        self.bank_T = torch.zeros(timesteps, device=device)

    def __call__(self, batch: JudgedBatch) -> Tensor:
        """Judge the batch by the bank as it was before, then update it; nothing is read from the device."""
        t_B, losses_B = batch.timesteps_B, batch.losses_B
        before_B = self.bank_T[t_B]
        limit_B = before_B if self.until is None else before_B * (t_B < self.until)
        kept_B = ~(self.scale * losses_B < limit_B)
        # The same timestep may come several times: after c updates b is γ^c b plus each (1−γ) l times γ for every later one.
        same_BB = t_B[:, None] == t_B[None, :]
        later_B = same_BB.triu(1).sum(1)
        moved_B = (1 - self.decay) * self.decay**later_B * losses_B
        # All samples of one timestep compute, and write, the same number.
        self.bank_T[t_B] = self.decay ** same_BB.sum(1) * before_B + (same_BB * moved_B[None, :]).sum(1)
        if self.margin is None:
            return kept_B
        near_B = kept_B & (self.scale * losses_B < (1 + self.scale * self.margin) * limit_B)
        return torch.where(near_B, NEAR, kept_B.long())

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
            return AntiGradientFilter(
                len(model.alphas_cumprod),
                model.device,
                scale=rule.scale,
                decay=rule.decay,
                margin=rule.augment_margin,
                until=rule.until_timestep,
            )
        quantile = QUANTILE if rule.quantile is None else rule.quantile
        if rule.by_timestep:
            return TimestepMagnitudeFilter(len(model.alphas_cumprod), model.device, quantile)
        return MagnitudeFilter(rule.threshold, quantile)

    return open_for
