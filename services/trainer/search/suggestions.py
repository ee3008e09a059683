"""Which choice is tried next: a pure function of the space, the trials so far and the rules.

optuna's study is rebuilt from the trials for every question, so that whatever was killed goes on with the same suggestions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from services.trainer.search.rules import Rules, excess_spans, figures
from services.trainer.search.space import Axis, Choice, Space
from services.trainer.search.trial import Trial
from services.trainer.search.warm_starts import warm_starts

STARTUP: Final = 4  # trials that TPE has seen before it says more than chance; warm starts are usually more
GENERATIONS: Final = 4  # of NSGA-II, where the trials allow populations of some size
SMALLEST_POPULATION: Final = 4
LARGEST_POPULATION: Final = 50  # optuna's own
FARTHEST: Final = 1e300  # by which a trial that did not come to its end breaks every bound
GENERATION_KEY: Final = "NSGAIISampler:generation"  # where optuna keeps a trial's


def suggest(space: Space, history: Sequence[Trial], rules: Rules) -> Choice | None:
    """What to try after these trials, which hold every number given out; None when no choice is left that was not tried."""
    given_out = {trial.choice.key() for trial in history}
    if len(given_out) >= space.size:
        return None
    for choice in opening(space, rules):
        if choice.key() not in given_out:
            return choice
    randomness = np.random.default_rng([rules.seed, len(history)])
    asked = _asked(space, history, rules, randomness)
    return asked if asked.key() not in given_out else _nearest_new(space, asked, given_out, randomness)


def opening(space: Space, rules: Rules) -> list[Choice]:
    """The warm starts that a search begins with; half of its trials at least are left to what they teach."""
    return warm_starts(space, rules.seed)[: max(1, rules.trials // 2)] if rules.warm_starts else []


def _asked(space: Space, history: Sequence[Trial], rules: Rules, randomness: np.random.Generator) -> Choice:
    """What the sampler takes, axis by axis."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would tell of every study that is made
    sampler = _sampler(rules, int(randomness.integers(2**32)))
    study = optuna.create_study(directions=["minimize"] * len(rules.objectives), sampler=sampler)
    study.add_trials(_told(space, history, rules))
    trial = study.ask()
    for name, axis in _idle_axes(space, rules).items():
        _taken(trial, name, axis)  # an axis that is asked for twice answers the same
    genes: dict[str, int] = {}
    for name, axis in space.axes(genes):
        genes[name] = _taken(trial, name, axis)
    choice = space.choice(genes, "suggested")
    while choice is None:  # a kind that learns nowhere else, with no module chosen
        bit = randomness.choice([name for name in genes if name.startswith("bit.")])
        choice = space.choice(genes | {str(bit): 1}, "neighbour")
    return choice


def _idle_axes(space: Space, rules: Rules) -> dict[str, Axis]:
    """What NSGA-II is told of and asked for although the choice may not have it: it crosses only what all trials have.

    Without, no rate of a kind and no rank would ever be inherited.
    """
    return space.every_axis() if rules.sampler == "nsga2" else {}


def _sampler(rules: Rules, seed: int) -> BaseSampler:
    match rules.sampler:
        case "tpe":
            # Jointly, for modules do not act alone; axes that only some trials have (ranks, a kind's rates) one by one. optuna's default
            # for several objectives, all one by one, dominated one to two hundredths less of toy fronts after 10 to 20 trials.
            return TPESampler(n_startup_trials=STARTUP, multivariate=True, seed=seed)
        case "nsga2":
            return NSGAIISampler(population_size=_population(rules), seed=seed)
        case "random":
            return RandomSampler(seed=seed)


def _population(rules: Rules) -> int:
    """Of NSGA-II: small enough for a few generations within the trials, and never above optuna's own."""
    return min(max(rules.trials // GENERATIONS, SMALLEST_POPULATION), LARGEST_POPULATION)


def _told(space: Space, history: Sequence[Trial], rules: Rules) -> list[FrozenTrial]:
    """The trials as optuna knows them."""
    told: list[FrozenTrial] = []
    ended = 0
    idle = _idle_axes(space, rules)
    middles = {name: axis.options // 2 for name, axis in idle.items()}
    spans = excess_spans([trial.figures() for trial in history if trial.state == "succeeded"], rules.constraints)
    for trial in sorted(history, key=lambda trial: trial.number):
        taken = space.genes(trial.choice)
        distributions = {name: _distribution(axis) for name, axis in (idle | dict(space.axes(taken))).items()}
        genes = middles | taken
        if trial.state == "succeeded":
            generation, ended = ended // _population(rules), ended + 1
            told.append(_complete(trial, genes, distributions, rules, spans, generation))
        elif trial.state == "running":
            # TPE takes it for a poor one until it is known to be good (constant liar), so that trials side by side differ.
            told.append(create_trial(state=TrialState.RUNNING, params=genes, distributions=distributions))
        elif trial.state in {"pruned", "failed"}:
            told.append(_poor(trial, genes, distributions, rules))
    return told


def _complete(
    trial: Trial,
    genes: dict[str, int],
    distributions: dict[str, BaseDistribution],
    rules: Rules,
    spans: Mapping[str, float],
    generation: int,
) -> FrozenTrial:
    """A trial that came to its end; samplers sum by how much it breaks bounds, so each counts in its own span."""
    measured = trial.figures()
    return create_trial(
        values=rules.losses(measured),
        constraints={name: excess / spans[name] for name, excess in rules.violations(measured).items()},
        params=genes,
        distributions=distributions,
        system_attrs={GENERATION_KEY: generation},
    )


def _poor(trial: Trial, genes: dict[str, int], distributions: dict[str, BaseDistribution], rules: Rules) -> FrozenTrial:
    """A trial that did not come to its end: TPE counts it among the poor ones, behind all that did.

    With several objectives its rungs are left out: what has learnt for a few steps only memorizes less than anything does in the end,
    and would stand on the front. A failed one (diverged, out of memory) says as much about where not to go as a pruned one.
    """
    values = {rung.step: rules.losses(figures(rung.values)) for rung in trial.rungs} if len(rules.objectives) == 1 else {}
    return create_trial(
        state=TrialState.PRUNED,
        intermediate_values={step: loss for step, (loss,) in values.items()},
        constraints={str(constraint): FARTHEST for constraint in rules.constraints},  # without any, optuna takes it for one that keeps them
        params=genes,
        distributions=distributions,
    )


def _taken(trial: optuna.Trial, name: str, axis: Axis) -> int:
    if axis.ordered:
        return trial.suggest_int(name, 0, axis.options - 1)
    return int(trial.suggest_categorical(name, range(axis.options)))


def _distribution(axis: Axis) -> BaseDistribution:
    return IntDistribution(0, axis.options - 1) if axis.ordered else CategoricalDistribution(range(axis.options))


def _nearest_new(space: Space, asked: Choice, given_out: Collection[str], randomness: np.random.Generator) -> Choice:
    """The choice not given out yet that is fewest steps away; of several, one by chance."""
    seen, ring = {asked.key()}, [asked]
    while ring:
        around = [near for choice in ring for near in space.neighbours(choice)]
        ring = list({near.key(): near for near in around if near.key() not in seen}.values())
        seen |= {near.key() for near in ring}
        if new := [near for near in ring if near.key() not in given_out]:
            return new[int(randomness.integers(len(new)))].model_copy(update={"origin": "neighbour"})
    raise ValueError("a space with choices left has one that steps lead to")
