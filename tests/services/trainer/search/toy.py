"""Rewards of a formula instead of a training: which masks and rates memorize and how well they draw is known, and so is the front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np

from services.trainer.search.loop import SearchLoop
from services.trainer.search.search_spec import SearchSpec
from services.trainer.search.space import Choice, Space
from services.trainer.search.trial import Trial
from shared.memorization.rewards.names import Direction
from shared.memorization.statistics import Estimate

MODULES = [
    "down_blocks.0.attentions.0",
    "down_blocks.1.attentions.0",
    "mid_block.attentions.0",
    "up_blocks.1.attentions.0",
    "up_blocks.1.attentions.1",
    "up_blocks.2.attentions.0",
]
DIRECTIONS: dict[str, Direction] = {"memorization": "minimize", "finding_agreement": "maximize"}
STEPS = 100

Rewards = Callable[[Choice], dict[str, float]]


def spec_of(**told: Any) -> SearchSpec:
    training = {"name": "find", "dataset": "dst_1", "base": "mdl_1", "steps": STEPS}
    return SearchSpec.model_validate({"training": training, "space": "svdiff", "objectives": list(DIRECTIONS)} | told)


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.1, high=value + 0.1, n=8)


def estimates(values: dict[str, float]) -> dict[str, Estimate]:
    return {name: estimate(value) for name, value in values.items()}


def toy_rewards(modules: int, seed: int = 0) -> Rewards:
    """Modules that memorize are not those that draw; a high rate memorizes more, and each mask draws best at a rate of its own."""
    generator = np.random.default_rng([modules, seed])
    memorizing, drawing = generator.dirichlet([0.7] * modules), generator.dirichlet([0.7] * modules)

    def rewards(choice: Choice) -> dict[str, float]:
        mask = np.array(choice.mask)
        rate = np.log10(choice.learning_rate) + 4  # -1 to 1
        power = 1 / (1 + np.exp(-3 * rate))
        best = 0.6 - 0.8 * mask.mean()
        drawn = (0.2 * mask.mean() + 0.8 * mask @ drawing) * np.exp(-(((rate - best) / 0.8) ** 2))
        return {"memorization": float(power * (0.05 + mask @ memorizing)), "finding_agreement": float(drawn)}

    return rewards


def all_choices(space: Space) -> list[Choice]:
    """Every choice of a small space of one kind."""
    axes = list(space.axes({}))
    genes = (
        {name: option for (name, _), option in zip(axes, options, strict=True)}
        for options in product(*(range(axis.options) for _, axis in axes))
    )
    return [choice for each in genes if (choice := space.choice(each, "suggested")) is not None]


def ended(number: int, choice: Choice, values: dict[str, float], steps: int = STEPS) -> Trial:
    return Trial(number=number, choice=choice, state="succeeded", values=estimates(values), steps=steps)


def searched(loop: SearchLoop, rewards: Rewards, *, at_once: int = 1, up_to: int = 10_000) -> list[Trial]:
    """Drive a loop to its end, or to so many trials."""
    running: list[Trial] = []
    while len(loop.trials) < up_to and (trial := loop.next_trial()) is not None:
        running.append(trial)
        if len(running) == at_once:
            first = running.pop(0)
            loop.settle(ended(first.number, first.choice, rewards(first.choice)))
    for trial in running:
        loop.settle(ended(trial.number, trial.choice, rewards(trial.choice)))
    return loop.trials


def choices(trials: Sequence[Trial]) -> list[str]:
    return [trial.choice.key() for trial in trials]
