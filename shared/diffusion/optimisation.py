"""The training loop: AdamW with a one-cycle rate, gradient clipping and an averaged copy of the weights (EMA)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from shared.diffusion.checkpoints import Resumable, State
from shared.diffusion.random_streams import GlobalStreams
from shared.diffusion.ranks import ALONE, Ranks

EMA_RAMP: Final = 10  # the average follows the weights closely while they still move fast: decay (1+n)/(10+n) at first


Loss = Callable[[int], Tensor | None]
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


@runtime_checkable
class RatedModule(Protocol):
    """A module of which some parameters learn at rates of their own."""

    def rated_parameters(self) -> Iterable[tuple[nn.Parameter, float | None]]:
        """Those that learn, each with the highest rate that it learns at; None is the plan's."""
        ...


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

    def state(self) -> State:
        """The average and its counter."""
        return State({str(number): tensor for number, tensor in enumerate(self.average)}, {"updates": self.updates})

    @torch.no_grad()
    def restore(self, state: State) -> None:
        """Go on from a kept average."""
        self.updates = int(state.facts["updates"])
        torch._foreach_copy_(self.average, [state.tensors[str(number)] for number in range(len(self.average))])


class Run:
    """One minimisation under way: everything that its next step depends on."""

    def __init__(self, modules: Sequence[nn.Module], loss: Loss, plan: Optimisation, ranks: Ranks = ALONE) -> None:
        """Begin at step 0 with the modules' present weights."""
        self.plan = plan
        self.step = 0
        self.modules = nn.ModuleList(modules)
        self.parameters: list[nn.Parameter] = [p for p in self.modules.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            _rate_groups(self.modules, plan.learning_rate), lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True
        )
        self.rates = _rates(self.optimiser, plan)
        self.average = ExponentialMovingAverage(self.parameters, plan.ema_decay) if plan.ema_decay is not None else None
        self._ranks = ranks
        self._resumable_loss = _resumable(loss)
        self._forward = ranks.shared(_LossOf(self.modules, loss))

    def advance(self) -> Tensor | None:
        """One step; answers its loss, or None where nothing of the batch counts and nothing moved."""
        self.optimiser.zero_grad(set_to_none=True)
        value = self._gradients()
        if value is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.plan.clip_norm)
            self.optimiser.step()
            self.rates.step()
            if self.average is not None:
                self.average.update()
        self.step += 1
        return value

    def advance_until(
        self,
        step: int,
        on_step: Callable[[int, Tensor], None] = lambda _step, _loss: None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        """Go on until so many steps are done in all: the one loop of every training."""
        self.modules.train()
        while self.step < step:
            value = self.advance()
            if value is not None:
                on_step(self.step - 1, value)
            if checkpoints is not None:
                checkpoints.after_step(self)

    def finish(self) -> None:
        """Leave the averaged weights in the modules, ready to be used."""
        if self.average is not None:
            self.average.apply()
        self.modules.eval()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The modules as `finish` would leave them, for a look on the way; afterwards they are as they were, bit for bit."""
        parameters = [p.detach() for p in self.parameters]
        weights = [p.clone() for p in parameters]
        self.finish()
        try:
            yield
        finally:
            torch._foreach_copy_(parameters, weights)
            self.modules.train()

    def state(self) -> State:
        """Weights, average and its counter, optimiser, rate, what the loss keeps, all random streams, and the step."""
        parts = {
            "modules": State(self.modules.state_dict()),
            "optimiser": _optimiser_state(self.optimiser),
            "rates": _rates_state(self.rates),
        }
        if self.average is not None:
            parts["average"] = self.average.state()
        if self._resumable_loss is not None:
            parts["loss"] = self._resumable_loss.state()
        parts["streams"] = GlobalStreams().state()
        joined = State.joined(parts)
        return State(joined.tensors, joined.facts | {"step": self.step})

    def restore(self, state: State) -> None:
        """Go on from a state of the same plan."""
        self.adopt(state)
        _restore_optimiser(self.optimiser, state.part("optimiser"))
        vars(self.rates).update(state.part("rates").facts)
        if self._resumable_loss is not None:
            self._resumable_loss.restore(state.part("loss"))
        GlobalStreams().restore(state.part("streams"))
        self.step = int(state.facts["step"])

    def adopt(self, state: State) -> None:
        """Take over a state's weights and their average, and nothing else of it."""
        self.modules.load_state_dict(state.part("modules").tensors)
        if self.average is not None:
            self.average.restore(state.part("average"))

    def _gradients(self) -> Tensor | None:
        """Leave the mean gradient of the losses that count in the parameters; answers their mean, None where none counts."""
        values: list[Tensor] = []
        for turn in range(self.plan.accumulation):
            with self._without_exchange() if turn + 1 < self.plan.accumulation else nullcontext():
                value = self._forward(self.step)
                if value is not None:
                    value.backward()
                    values.append(value.detach())
        if not values:
            return None
        if len(values) > 1:
            torch._foreach_div_([p.grad for p in self.parameters if p.grad is not None], len(values))
        return self._ranks.mean(values[0] if len(values) == 1 else torch.stack(values).mean())

    def _without_exchange(self) -> AbstractContextManager[None]:
        """Keep gradients to this rank: those of an accumulated step travel once."""
        return self._forward.no_sync() if isinstance(self._forward, DistributedDataParallel) else nullcontext()


class Checkpoints(Protocol):
    """Decides where a run begins and what is kept of it."""

    def resume(self, run: Run) -> None:
        """Restore what was kept of this run, if anything was."""
        ...

    def after_step(self, run: Run) -> None:
        """Keep the run now and then. May raise to stop it."""
        ...


def optimise(
    modules: Sequence[nn.Module],
    loss: Loss,
    plan: Optimisation,
    on_step: Callable[[int, Tensor], None] = lambda _step, _loss: None,
    checkpoints: Checkpoints | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Minimise `loss(step)` over the modules' trainable parameters and leave the averaged weights in them.

    `loss` may answer None: nothing of the batch counts, and neither optimiser, rate nor average moves. `on_step` sees each
    step's loss as a tensor (reading its number costs a device sync, so the caller decides how often) and may raise to stop.
    A loss that is Resumable goes into the checkpoints, and so a run that was ended at any step ends with the same weights.
    """
    run = Run(modules, loss, plan, ranks)
    if checkpoints is not None:
        checkpoints.resume(run)
    run.advance_until(plan.steps, on_step, checkpoints)
    run.finish()


class _LossOf(nn.Module):
    """The loss as a module that owns what learns, which is what the exchange of gradients between ranks needs."""

    def __init__(self, modules: nn.ModuleList, loss: Loss) -> None:
        super().__init__()
        self.learning = modules
        self.loss = loss

    def forward(self, step: int) -> Tensor | None:
        return self.loss(step)


def _resumable(loss: object) -> Resumable | None:
    """The loss, if it has something to keep."""
    return loss if isinstance(loss, Resumable) else None


def _rate_groups(modules: Iterable[nn.Module], learning_rate: float) -> list[dict[str, Any]]:
    """What learns, by its highest rate; one group where all have the plan's."""
    groups: dict[float, list[nn.Parameter]] = {}
    for module in modules:
        rated = module.rated_parameters() if isinstance(module, RatedModule) else ((p, None) for p in module.parameters())
        for parameter, rate in rated:
            if parameter.requires_grad:
                groups.setdefault(learning_rate if rate is None else rate, []).append(parameter)
    return [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]


def _optimiser_state(optimiser: torch.optim.Optimizer) -> State:
    """Adam's moments and counters by number of parameter, and the groups' rates."""
    kept = optimiser.state_dict()
    return State(
        {f"{number}.{name}": value for number, entry in kept["state"].items() for name, value in entry.items()},
        {"groups": kept["param_groups"]},
    )


def _restore_optimiser(optimiser: torch.optim.Optimizer, state: State) -> None:
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in state.tensors.items():
        number, _, name = key.partition(".")
        entries.setdefault(int(number), {})[name] = value
    groups = [group | {"betas": tuple(group["betas"])} for group in state.facts["groups"]]
    optimiser.load_state_dict({"state": entries, "param_groups": groups})


def _rates_state(rates: torch.optim.lr_scheduler.LRScheduler) -> State:
    """Where the schedule is; what it does there follows from the plan."""
    return State(facts={name: vars(rates)[name] for name in ("last_epoch", "_step_count", "_last_lr")})


def _rates(optimiser: torch.optim.Optimizer, plan: Optimisation) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rates over the steps, each group's from its own peak."""
    if plan.schedule == "one_cycle":
        rising = max(plan.warm_up, 1.5 / (plan.steps + 1))  # torch divides by zero where the rise is exactly one step long
        peaks = [group["lr"] for group in optimiser.param_groups]
        return torch.optim.lr_scheduler.OneCycleLR(optimiser, peaks, total_steps=plan.steps + 1, pct_start=rising)
    return torch.optim.lr_scheduler.LambdaLR(optimiser, partial(_share_of_rate, plan))


def _share_of_rate(plan: Optimisation, step: int) -> float:
    """What share of the rate a step has: a straight rise, and then what the schedule says."""
    rise = plan.warm_up * plan.steps
    if step + 1 < rise:
        return (step + 1) / rise
    fallen = max(0.0, step - rise) / max(1.0, plan.steps - rise)
    return {"cosine": (1 + math.cos(math.pi * fallen)) / 2, "linear": 1 - fallen}.get(plan.schedule, 1.0)
