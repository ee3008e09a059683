"""What a search found, as its record and its report tell it; JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

from services.trainer.search.front import Box, eligible, front, hypervolume_over_steps, losses_of
from services.trainer.search.importance import importance
from services.trainer.search.recommendation import recommend
from services.trainer.search.rules import Rules
from services.trainer.search.space import Space
from services.trainer.search.trial import State, Trial
from shared.memorization.statistics import Estimate

STATES: Final[tuple[State, ...]] = get_args(State)


def summarise(
    space: Space,
    rules: Rules,
    trials: Sequence[Trial],
    *,
    base: Mapping[str, Estimate] | None = None,
    floors: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The front with all that its points are, the recommended one, how the front grew, and which choices mattered.

    Beside it what the untuned base scores and what real films do for images, where that was measured.
    """
    found = recommend(trials, rules)
    able = eligible(trials, rules)
    box = Box.around(losses_of(able, rules)) if able else None
    states = Counter(trial.state for trial in trials)
    return {
        "pareto": [_point(space, trial) for trial in front(trials, rules)],
        "recommended": None if found is None else _point(space, found.trial) | {"rule": found.rule},
        "base": None if base is None else _measured(base),
        "floors": None if floors is None else dict(floors),
        "hypervolume": [[steps, share] for steps, share in hypervolume_over_steps(trials, rules, box)],
        "reference_point": None if box is None else _named(rules, box.reference_K.tolist()),
        "importance": importance(space, rules, trials),
        "trials": {state: states[state] for state in STATES},
        "steps": sum(trial.steps for trial in trials),
        "objectives": dict(rules.objectives),
        "modules": list(space.modules),
        "modules_digest": space.modules_digest,
    }


def _named(rules: Rules, losses_K: Sequence[float]) -> dict[str, float]:
    """Losses as the objectives they are of."""
    names = list(rules.objectives)
    return dict(zip(names, rules.losses(dict(zip(names, losses_K, strict=True))), strict=True))


def _point(space: Space, trial: Trial) -> dict[str, Any]:
    """One point of a front: what was chosen, by names too, and what was measured."""
    choice, training = trial.choice, space.training(trial.choice)
    return {
        "trial": trial.number,
        "kind": choice.kind,
        "mask": choice.mask,
        "blocks": [name for name, bit in zip(space.modules, choice.mask, strict=True) if bit],
        "ranks": choice.ranks,
        "learning_rate": choice.learning_rate,
        "batch_filter": None if training.batch_filter is None else training.batch_filter.model_dump(mode="json"),
        "captions": [rule.model_dump(mode="json") for rule in training.captions],
        **_measured(trial.values or {}),
        "trainable_parameters": trial.trainable_parameters,
        "trainable_fraction": trial.trainable_fraction,
        "model": trial.model,
    }


def _measured(values: Mapping[str, Estimate]) -> dict[str, Any]:
    """Estimates as values and intervals."""
    return {
        "values": {name: estimate["value"] for name, estimate in values.items()},
        "intervals": {name: [estimate["low"], estimate["high"]] for name, estimate in values.items()},
    }
