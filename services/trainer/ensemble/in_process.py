"""An ensemble in one process, for benchmarks and tests: no jobs, no store, all shards' states in memory. M moves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from services.trainer.denoising_loss import Recipe
from services.trainer.ensemble.rounds import PHASE, Ensemble, begin_shard
from services.trainer.ensemble.rules import EnsembleRule
from services.trainer.skip_counts import SkipCounts
from services.trainer.training_set import TrainingSet
from shared.diffusion.checkpoints import State
from shared.diffusion.model import Model


@dataclass(frozen=True)
class EnsembleOutcome:
    """What came of an ensemble beside the model: `moves_M4` has round, record, from which shard, to which shard."""

    skips: SkipCounts
    moves_M4: NDArray[np.int64]
    deltas: dict[str, Tensor]


def train_ensemble(
    model: Model,
    films: TrainingSet,
    recipe: Recipe,
    rule: EnsembleRule,
    on_step: Callable[[int, int, str, Tensor], None],
    skips: SkipCounts | None = None,
) -> EnsembleOutcome:
    """Train a denoiser by an ensemble in this process, shard after shard, all states in memory; the model ends as the last average.

    `recipe.steps` are those of all shards together: as many samples are seen as by `train_denoiser` with the same recipe.
    `on_step` is told the step (of all shards), of how many, "denoiser", and the loss.
    """
    ensemble = Ensemble(films, recipe, rule, SkipCounts(films) if skips is None else skips)
    total = rule.shards * (recipe.steps // rule.shards)
    states: list[State | None] = [None] * rule.shards
    while not ensemble.is_over:
        for task in ensemble.tasks():
            run = begin_shard(copied(model), films, recipe, rule, task, states[task.shard])
            before = ensemble.step + task.shard * (task.ends - task.begins) - task.begins

            def tell(step: int, value: Tensor, before: int = before) -> None:
                on_step(before + step + 1, total, PHASE, value)

            run.advance_until(task.ends, tell)
            states[task.shard] = run.state().copied()
        ensemble.close_round(state for state in states if state is not None)
    deltas = ensemble.finish(model, recipe)
    return EnsembleOutcome(ensemble.skips, ensemble.moves_M4, deltas)


def copied(model: Model) -> Model:
    """A model whose denoiser and text encoder may be trained without the other's; the autoencoder never moves."""
    return replace(model, unet=copy.deepcopy(model.unet), text_encoder=copy.deepcopy(model.text_encoder))
