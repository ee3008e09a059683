"""Who is compared: fixed choices of what learns, each with a sweep of rates, and searches, all over the same training.

Constants of the searches are the service's own defaults, but for when and how sharply ours prunes, which the regime says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

from benchmarks.memcontrol.regime import Regime
from services.trainer.search.search_spec import SearchSpec
from services.trainer.search.space import Choice, Space
from services.trainer.training_spec import TrainingSpec

OBJECTIVES: Final = ("memorization", "fid")
FIXED_RANK: Final = 4
MORE_TRIALS: Final = 1.5  # times as many may be begun where some are ended early; the steps bound them all

Sampler = Literal["tpe", "nsga2", "random"]


@dataclass(frozen=True)
class Fixed:
    """One choice of what learns; its sweep tries the kind's rates."""

    name: str
    kind: str
    is_fixed: ClassVar[bool] = True


@dataclass(frozen=True)
class Search:
    """One way to search."""

    name: str
    sampler: Sampler
    asks: Mapping[str, Any] = field(default_factory=dict)
    prunes: bool = False
    is_fixed: ClassVar[bool] = False


OURS: Final = Search("ours", "tpe", {"warm_starts": True}, prunes=True)
NSGA2: Final = Search("NSGA-II", "nsga2", {"warm_starts": False})
SEARCHES: Final = (OURS, Search("TPE", "tpe", {"warm_starts": False}), NSGA2, Search("random search", "random", {"warm_starts": False}))
FIXED: Final = (
    Fixed("full", "full"),
    Fixed("attention", "attention"),
    Fixed("bias and norm", "bias_norm"),
    Fixed("LoRA r=4", "lora"),
    Fixed("SV-DIFF", "svdiff"),
    Fixed("DiffFit", "diffit"),
)
Contender = Fixed | Search
CONTENDERS: Final[tuple[Contender, ...]] = (*SEARCHES, *FIXED)  # the long ones first: two processes then end at the same time
QUICK_CONTENDERS: Final = (OURS.name, NSGA2.name, "full", "SV-DIFF")


def search_spec(search: Search, regime: Regime, seed: int) -> SearchSpec:
    """What the service would be asked."""
    asked: dict[str, Any] = {
        "training": _training(regime, seed),
        "space": "auto",
        "learning_rate": regime.searched_rates(),
        "ranks": list(regime.ranks),
        "objectives": list(OBJECTIVES),
        "trials": round(regime.trials * (MORE_TRIALS if search.prunes else 1)),
        "sampler": search.sampler,
        "pruning": regime.pruning() if search.prunes else None,
        "evaluation": regime.effort(seed),
        "recommend": {"rule": "quality_within"},
        "seed": seed,
    }
    return SearchSpec.model_validate(asked | dict(search.asks))


def sweep(fixed: Fixed, space: Space, regime: Regime) -> list[TrainingSpec]:
    """Its trainings, from the middle rate outwards; those of a searched kind are told as a search tells them, and so are the same."""
    rates = regime.rates_of(fixed.kind).rates
    middle = len(rates) // 2
    outwards = sorted(rates, key=lambda rate: abs(rates.index(rate) - middle))
    return [_fixed_training(fixed, space, rate) for rate in outwards]


def _fixed_training(fixed: Fixed, space: Space, rate: float) -> TrainingSpec:
    if fixed.kind not in space.kinds:
        parameters = {"kind": fixed.kind, "learning_rate": rate}
        return TrainingSpec.model_validate(space.template.model_dump() | {"learning_rate": rate, "parameters": parameters})
    ones = [1] * len(space.modules)
    ranks = [FIXED_RANK] * len(ones) if fixed.kind == "lora" else None
    return space.training(Choice.model_validate({"kind": fixed.kind, "mask": ones, "ranks": ranks, "learning_rate": rate}))


def _training(regime: Regime, seed: int) -> dict[str, Any]:
    return {
        "name": "memcontrol",
        "dataset": "canaries",
        "base": "other-patients",
        "steps": regime.steps,
        "batch_size": regime.batch,
        "prompt_dropout": regime.material.prompt_dropout,
        "text_encoder": "frozen",
        "seed": seed,
    }
