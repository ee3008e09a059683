"""What a search goes by: which figures count and which way, what bounds they keep, and how the next trial is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from services.trainer.search.search_spec import Constraint, Pruning, Recommendation, SearchSpec
from shared.memorization.rewards.names import Direction
from shared.memorization.statistics import Estimate

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Rules:
    """Of one search, for all of its trials; `objectives` stand in their order."""

    objectives: Mapping[str, Direction]
    constraints: tuple[Constraint, ...]
    sampler: Literal["tpe", "nsga2", "random"]
    trials: int
    seed: int
    warm_starts: bool
    pruning: Pruning | None
    recommend: Recommendation

    @classmethod
    def of(cls, spec: SearchSpec, directions: Mapping[str, Direction]) -> Rules:
        """Those of a search, whose rewards have these directions."""
        return cls(
            objectives={name: directions[name] for name in spec.objectives},
            constraints=tuple(spec.constraints),
            sampler=spec.sampler,
            trials=spec.trials,
            seed=spec.seed,
            warm_starts=spec.warm_starts,
            pruning=spec.pruning,
            recommend=spec.recommend,
        )

    def losses(self, values: Figures) -> list[float]:
        """The objectives so that less is better."""
        return losses(values, self.objectives)

    def violations(self, values: Figures) -> dict[str, float]:
        """By how much each constraint is broken; nothing is broken at 0 and below."""
        return violations(values, self.constraints)

    def keeps_bounds(self, values: Figures) -> bool:
        """Whether no constraint is broken."""
        return all(excess <= 0 for excess in self.violations(values).values())


def losses(values: Figures, objectives: Mapping[str, Direction]) -> list[float]:
    """Objectives in their order, so that less is better."""
    return [values[name] if direction == "minimize" else -values[name] for name, direction in objectives.items()]


def violations(values: Figures, constraints: Sequence[Constraint]) -> dict[str, float]:
    """By how much each constraint is broken; above 0 it is."""
    return {str(constraint): _excess(values[constraint.reward], constraint) for constraint in constraints}


def excess_spans(points: Sequence[Figures], constraints: Sequence[Constraint]) -> dict[str, float]:
    """How far points spread beyond each bound: what excesses are divided by where several bounds, each in its own unit, are summed."""
    spans: dict[str, float] = {}
    for constraint in constraints:
        beyond = [max(0.0, _excess(point[constraint.reward], constraint)) for point in points]
        spans[str(constraint)] = (max(beyond) - min(beyond) if beyond else 0.0) or 1.0  # of one excess alone, all are as far
    return spans


def figures(values: Mapping[str, Estimate]) -> dict[str, float]:
    """Estimates without their intervals."""
    return {name: estimate["value"] for name, estimate in values.items()}


def _excess(value: float, constraint: Constraint) -> float:
    if constraint.at_most is not None:
        return value - constraint.at_most
    if constraint.at_least is not None:
        return constraint.at_least - value
    raise ValueError("a constraint has a bound")
