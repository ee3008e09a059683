"""One contender's way through its budget: which trainings it asked for, in their order, and what each one cost and gave."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.memcontrol.contenders import OBJECTIVES, OURS, Contender, Fixed, Search, search_spec, sweep
from benchmarks.memcontrol.site import Site, modules_of
from benchmarks.memcontrol.unit import COPIES, Outcome, Unit, Values, outcome_of, write_whole
from services.trainer.search.front import dominated
from services.trainer.search.loop import SearchLoop
from services.trainer.search.space import Space
from services.trainer.search.trial import Rung, Trial
from services.trainer.training_spec import TrainingSpec
from shared.memorization.rewards.names import BUILT_IN

WITHIN: Final = 0.05  # of the best FID: what counts as no worse


@dataclass(frozen=True)
class Attempt:
    """A training that a contender paid for; `values` are None where it was ended early."""

    spec: dict[str, Any]
    steps: int
    seconds: float
    trainable_parameters: int
    trainable_fraction: float
    values: dict[str, float] | None

    @classmethod
    def of(cls, spec: TrainingSpec, outcome: Outcome) -> Attempt:
        """What an outcome says, without intervals."""
        values = None if outcome.values is None else {name: estimate["value"] for name, estimate in outcome.values.items()}
        return cls(
            spec.model_dump(mode="json"), outcome.steps, outcome.seconds, outcome.trainable_parameters, outcome.trainable_fraction, values
        )

    @property
    def training(self) -> TrainingSpec:
        """The training."""
        return TrainingSpec.model_validate(self.spec)

    @property
    def losses(self) -> list[float]:
        """Both objectives, less is better; of a training that came to its end."""
        return [(self.values or {})[name] for name in OBJECTIVES]


@dataclass(frozen=True)
class Course:
    """All that one contender did at one site."""

    contender: str
    seed: int
    attempts: list[Attempt]

    @property
    def finished(self) -> list[Attempt]:
        """Those that came to their end."""
        return [attempt for attempt in self.attempts if attempt.values is not None]

    @property
    def steps(self) -> int:
        """Training steps of all."""
        return sum(attempt.steps for attempt in self.attempts)


def course_path(site: Site, contender: Contender) -> Path:
    """Where a course lies."""
    return site.home / "courses" / f"{contender.name.replace(' ', '-')}.json"


def read_course(site: Site, contender: Contender) -> Course:
    """A course that was run."""
    kept = json.loads(course_path(site, contender).read_text(encoding="utf-8"))
    return Course(kept["contender"], kept["seed"], [Attempt(**attempt) for attempt in kept["attempts"]])


def run_course(site: Site, contender: Contender) -> Course:
    """Spend a contender's budget; what was trained before is not trained again."""
    attempts = _swept(site, contender) if isinstance(contender, Fixed) else _searched(site, contender)
    course = Course(contender.name, site.seed, attempts)
    write_whole(course_path(site, contender), asdict(course))
    return course


def space_of(site: Site, search: Search) -> Space:
    """What a search chooses from at a site."""
    return Space.of(search_spec(search, site.regime, site.seed), modules_of(site))


def _swept(site: Site, fixed: Fixed) -> list[Attempt]:
    specs = sweep(fixed, space_of(site, OURS), site.regime)[: site.regime.trials]
    return [Attempt.of(spec, outcome_of(Unit(site, spec))) for spec in specs]


def _searched(site: Site, search: Search) -> list[Attempt]:
    """The loop that jobs drive too, over trainings in this process. It begins no training that could take it beyond the budget."""
    regime, spec = site.regime, search_spec(search, site.regime, site.seed)
    space = Space.of(spec, modules_of(site))
    loop = SearchLoop(space, spec, {name: BUILT_IN[name] for name in OBJECTIVES}, max_steps=regime.budget - regime.steps + 1)
    attempts: list[Attempt] = []
    while (trial := loop.next_trial()) is not None:
        training, number = space.training(trial.choice), trial.number

        def goes_on(step: int, values: Values, number: int = number) -> bool:
            return loop.verdict(number, step, values)

        outcome = outcome_of(Unit(site, training), spec.rung_steps[:-1], goes_on)
        loop.settle(_settled(trial, outcome))
        attempts.append(Attempt.of(training, outcome))
    return attempts


def _settled(trial: Trial, outcome: Outcome) -> Trial:
    """What the loop learns of a trial: its objectives alone."""
    values = None if outcome.values is None else {name: outcome.values[name] for name in OBJECTIVES}
    rungs = outcome.rungs if values is None else outcome.rungs | {outcome.steps: values}
    return trial.model_copy(
        update={
            "state": "pruned" if values is None else "succeeded",
            "rungs": [Rung(step=step, values=measured) for step, measured in sorted(rungs.items())],
            "values": values,
            "steps": outcome.steps,
        }
    )


# ---------------------------------------------------------------- points


def losses_of(attempts: Sequence[Attempt]) -> NDArray[np.float64]:
    """Their objectives, less is better, N×2."""
    return np.array([attempt.losses for attempt in attempts], dtype=np.float64).reshape(len(attempts), len(OBJECTIVES))


def front_of(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Those that no other one dominates, by their FID."""
    able = list(attempts)
    best = [attempt for attempt, beaten in zip(able, dominated(losses_of(able)), strict=True) if not beaten]
    return sorted(best, key=lambda attempt: attempt.losses[::-1])


def chosen(attempts: Iterable[Attempt]) -> Attempt:
    """By the rule of the search's recommendation, which every contender is held to: least memorization within 5 % of its best FID."""
    points = front_of(attempts)
    best = min(attempt.losses[1] for attempt in points)
    return min((attempt for attempt in points if attempt.losses[1] <= (1 + WITHIN) * best), key=lambda attempt: attempt.losses)


def copy_rate(attempt: Attempt) -> float:
    """Of a training that came to its end."""
    return (attempt.values or {})[COPIES]
