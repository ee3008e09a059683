"""The training loop: AdamW with a one-cycle rate, gradient clipping and an averaged copy of the weights (EMA)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import torch
from torch import Tensor, nn

EMA_RAMP: Final = 10  # the average follows the weights closely while they still move fast: decay (1+n)/(10+n) at first


Schedule = Literal["one_cycle", "constant", "cosine", "linear"]


@dataclass(frozen=True)
class Optimisation:
    """How long and how fast to learn; `ema_decay` None keeps the last weights instead of their average."""

    steps: int
    learning_rate: float
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float | None = None
    schedule: Schedule = "one_cycle"  # what the rate does after its rise: fall by a cosine, to nearly nothing; stay; fall to 0
    warm_up: float = 0.1  # share of the steps in which the rate rises
    accumulation: int = 1  # how many times `loss` is called a step; their gradients are averaged


class ExponentialMovingAverage:
    """Averaged weights θ̄ ← d θ̄ + (1−d) θ, with the count of updates that its ramp depends on."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        """Start from the present weights."""
        self.parameters: list[Tensor] = list(parameters)
        self.decay = decay
        self.updates = 0
        self.average = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Follow the weights by one update."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (EMA_RAMP + self.updates))
        torch._foreach_lerp_(self.average, self.parameters, 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Replace the weights by their average."""
        torch._foreach_copy_(self.parameters, self.average)


def optimise(
    modules: Sequence[nn.Module],
    loss: Callable[[int], Tensor | None],
    plan: Optimisation,
    on_step: Callable[[int, Tensor], None] = lambda _step, _loss: None,
) -> None:
    """Minimise `loss(step)` over the modules' trainable parameters and leave the averaged weights in them.

    `loss` may answer None: nothing of the batch counts, and neither optimiser, rate nor average moves. `on_step` sees each
    step's loss as a tensor (reading its number costs a device sync, so the caller decides how often) and may raise to stop.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True)
    rates = _rates(optimiser, plan)
    average = ExponentialMovingAverage(parameters, plan.ema_decay) if plan.ema_decay is not None else None
    for module in modules:
        module.train()
    for step in range(plan.steps):
        optimiser.zero_grad(set_to_none=True)
        value = _gradients(loss, step, plan.accumulation, parameters)
        if value is not None:
            nn.utils.clip_grad_norm_(parameters, plan.clip_norm)
            optimiser.step()
            rates.step()
            if average is not None:
                average.update()
            on_step(step, value)
    if average is not None:
        average.apply()
    for module in modules:
        module.eval()


def _gradients(loss: Callable[[int], Tensor | None], step: int, times: int, parameters: Sequence[nn.Parameter]) -> Tensor | None:
    """Leave the mean gradient of the losses that count in the parameters; answers their mean, None where none counts."""
    values: list[Tensor] = []
    for _ in range(times):
        value = loss(step)
        if value is not None:
            value.backward()
            values.append(value.detach())
    if not values:
        return None
    if len(values) > 1:
        torch._foreach_div_([p.grad for p in parameters if p.grad is not None], len(values))
    return values[0] if times == 1 else torch.stack(values).mean()


def _rates(optimiser: torch.optim.Optimizer, plan: Optimisation) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate over the steps."""
    if plan.schedule == "one_cycle":
        rising = max(plan.warm_up, 1.5 / (plan.steps + 1))  # torch divides by zero where the rise is exactly one step long
        return torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.learning_rate, total_steps=plan.steps + 1, pct_start=rising)
    return torch.optim.lr_scheduler.LambdaLR(optimiser, partial(_share_of_rate, plan))


def _share_of_rate(plan: Optimisation, step: int) -> float:
    """What share of the rate a step has: a straight rise, and then what the schedule says."""
    rise = plan.warm_up * plan.steps
    if step + 1 < rise:
        return (step + 1) / rise
    fallen = max(0.0, step - rise) / max(1.0, plan.steps - rise)
    return {"cosine": (1 + math.cos(math.pi * fallen)) / 2, "linear": 1 - fallen}.get(plan.schedule, 1.0)
