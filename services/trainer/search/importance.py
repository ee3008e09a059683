"""Which choices matter to each objective: functional ANOVA over a random forest (Hutter et al. 2014).

Of few trials it ranks main effects better than PED-ANOVA does, which looks at the best of them alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from services.trainer.search.rules import Rules
from services.trainer.search.space import Choice, Space
from services.trainer.search.trial import Trial

FEWEST: Final = 10  # finished trials; with fewer, shares are those of chance
# Main effects need no more: larger forests rank them the same, and would take seconds after each of some hundred trials.
TREES: Final = 32
DEPTH: Final = 5


def importance(space: Space, rules: Rules, trials: Sequence[Trial]) -> dict[str, Any]:
    """Of each objective, the share that the kind, the rate and every attention module have in its variance; or what is missing for it."""
    ended = [trial for trial in trials if trial.state == "succeeded"]
    if len(ended) < FEWEST:
        return {"objectives": {}, "reason": f"{FEWEST} finished trials are needed to tell what matters; there are {len(ended)}"}
    losses_NK = np.array([rules.losses(trial.figures()) for trial in ended])
    varied = {name: losses_N for name, losses_N in zip(rules.objectives, losses_NK.T, strict=True) if np.ptp(losses_N) > 0}
    constant = [name for name in rules.objectives if name not in varied]
    features, distributions = [_features(space, trial.choice) for trial in ended], _distributions(space)
    return {
        "objectives": {name: _shares(features, distributions, losses_N.tolist(), rules.seed) for name, losses_N in varied.items()},
        "reason": f"all trials have the same {' and '.join(constant)}" if constant else None,
    }


def _shares(
    features: Sequence[dict[str, Any]], distributions: dict[str, BaseDistribution], values: Sequence[float], seed: int
) -> dict[str, float]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would tell of every study that is made
    study = optuna.create_study()
    study.add_trials(
        [create_trial(value=value, params=each, distributions=distributions) for each, value in zip(features, values, strict=True)]
    )
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(n_trees=TREES, max_depth=DEPTH, seed=seed % 2**32))
    return {name: float(share) for name, share in shares.items()}


def _features(space: Space, choice: Choice) -> dict[str, Any]:
    """What every choice has, whatever its kind; a module counts as its rank where it has one."""
    found: dict[str, Any] = {"kind": choice.kind, "learning_rate": math.log10(choice.learning_rate)}
    found |= {"batch_filter": choice.batch_filter, "captions": choice.captions}
    found |= dict(zip(space.modules, choice.ranks or choice.mask, strict=True))
    return {name: found[name] for name in _distributions(space)}


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    """Of what a search varies at all."""
    rates = [math.log10(rate) for kind in space.kinds for rate in space.rates[kind]]
    highest = space.ranks[-1] if "lora" in space.kinds else 1
    fixed = frozenset.intersection(*space.always.values())
    every: dict[str, BaseDistribution] = {
        "kind": CategoricalDistribution(space.kinds),
        "learning_rate": FloatDistribution(min(rates), max(rates)),
        "batch_filter": CategoricalDistribution(range(len(space.batch_filters or (None,)))),
        "captions": CategoricalDistribution(range(len(space.captions or (None,)))),
    }
    for index, name in enumerate(space.modules):
        if index not in fixed or highest > 1:
            every[name] = IntDistribution(0, highest)
    return {name: distribution for name, distribution in every.items() if not distribution.single()}
