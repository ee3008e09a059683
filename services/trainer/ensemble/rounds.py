"""The rounds of an ensemble (IET: Liu et al., ECCV 2024, algorithm 1): its shards learn apart, are averaged, and go on from there.

Each shard's run spans all rounds: its learning rate follows all of its steps, and its optimiser, its batch filter, its order of
films and its random numbers go on. Of a round's end only the weights and their averages (EMA) are replaced, by all shards' mean.

N films, M moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.trainer.caption_transforms import CaptionTransform
from services.trainer.denoising_loss import DenoisingLoss, Recipe
from services.trainer.ensemble.averaging import average_states, with_average
from services.trainer.ensemble.moved import move_deck
from services.trainer.ensemble.redistribution import redistribute
from services.trainer.ensemble.rules import EnsembleRule
from services.trainer.ensemble.shards import deal_shards
from services.trainer.parameters.learning_parameters import merge_learnt
from services.trainer.parameters.selection import PartOfDenoiser
from services.trainer.skip_counts import SkipCounts
from services.trainer.training_set import TrainingSet
from shared.diffusion.checkpoints import State
from shared.diffusion.model import Model
from shared.diffusion.optimisation import Run
from shared.diffusion.random_streams import GlobalStreams

PHASE: Final = "denoiser"  # of a training, whose place the rounds take
_MOVE: Final = 4  # numbers of a move: round, film, from which shard, to which


@dataclass(frozen=True)
class ShardTask:
    """One shard's part of one round, its own run's steps from `begins` to `ends`."""

    shard: int
    round: int
    begins: int
    ends: int
    rows: NDArray[np.int64]
    rows_before: NDArray[np.int64]  # its films in the round before: what its own state speaks of
    averaged: State | None  # what it goes on from; None in the first round
    streams: State  # where torch, NumPy and Python are as its run begins


class Ensemble:
    """An ensemble between two rounds: who has which film, what all go on from, and what was counted."""

    def __init__(self, films: TrainingSet, recipe: Recipe, rule: EnsembleRule, skips: SkipCounts) -> None:
        """Before the first round; what batch filters leave out is counted in `skips`."""
        self.films = films
        self.rule = rule
        self.skips = skips
        self.round = 0
        self.averaged: State | None = None
        self.streams = GlobalStreams().state()
        self.shards_N = deal_shards(films.patients, films.strata, rule.shards, recipe.seed)
        self.before_N = self.shards_N
        self.moves_M4 = np.empty((0, _MOVE), dtype=np.int64)
        self._steps = recipe.steps // rule.shards
        self._factored = isinstance(recipe.parameters, PartOfDenoiser) and recipe.parameters.parameters.kind == "lora"

    @property
    def is_over(self) -> bool:
        """Whether all rounds are done."""
        return self.round == self.rule.rounds

    @property
    def step(self) -> int:
        """Steps so far, those of all shards together."""
        return self.rule.shards * self._boundary(self.round)

    def tasks(self) -> list[ShardTask]:
        """What the shards do in the next round; none needs another one's result."""
        return [
            ShardTask(
                shard=shard,
                round=self.round + 1,
                begins=self._boundary(self.round),
                ends=self._boundary(self.round + 1),
                rows=np.flatnonzero(self.shards_N == shard),
                rows_before=np.flatnonzero(self.before_N == shard),
                averaged=self.averaged,
                streams=self.streams,
            )
            for shard in range(self.rule.shards)
        ]

    def close_round(self, states: Iterable[State]) -> None:
        """Average the shards' runs, which come in order and one at a time; count, and let patients move."""
        counted = SkipCounts(self.films)

        def weighted() -> Iterable[tuple[State, int]]:
            for shard, state in enumerate(states):
                rows = np.flatnonzero(self.shards_N == shard)
                kept = state.part("loss")
                if "skips" in kept.facts:
                    counted.include(rows, kept.part("skips"))
                yield state, len(rows)

        self.averaged = average_states(weighted(), factored=self._factored)
        self.skips.include(np.arange(len(self.shards_N)), counted.state())
        self.round += 1
        self.before_N = self.shards_N
        if self.rule.redistribute is not None and self.rule.moves_after(self.round):
            visits_N, skips_N = counted.visits_N.numpy(), counted.skips_N.numpy()
            self.shards_N = redistribute(self.shards_N, self.films.patients, visits_N, skips_N, self.rule.redistribute)
            moved = np.flatnonzero(self.shards_N != self.before_N)
            rounds = np.full_like(moved, self.round)
            columns = [rounds, self.films.records[moved], self.before_N[moved], self.shards_N[moved]]
            self.moves_M4 = np.concatenate([self.moves_M4, np.stack(columns, axis=1)])

    def finish(self, model: Model, recipe: Recipe) -> dict[str, Tensor]:
        """Leave the last average in a model as it was before the first round; answers what its weights do not show."""
        if self.averaged is None:
            raise ValueError("an ensemble that learnt nothing has no average")
        GlobalStreams().restore(self.streams)
        modules = recipe.modules(model)
        run = Run(modules, lambda _step: None, recipe.optimisation)
        run.adopt(with_average(run.state(), self.averaged))
        run.finish()
        deltas = merge_learnt(modules)
        model.weights_changed()
        return deltas

    def state(self) -> State:
        """Everything that the next round starts from."""
        table = {"shards": self.shards_N, "before": self.before_N, "moves": self.moves_M4}
        parts = {
            "averaged": self.averaged or State(),
            "streams": self.streams,
            "skips": self.skips.state(),
            "table": State({name: torch.from_numpy(values.copy()) for name, values in table.items()}),
        }
        joined = State.joined(parts)
        return State(joined.tensors, joined.facts | {"round": self.round})

    def restore(self, state: State) -> None:
        """Go on from there."""
        self.round = int(state.facts["round"])
        self.averaged = state.part("averaged") if self.round else None
        self.streams = state.part("streams")
        self.skips.restore(state.part("skips"))
        table = {name: tensor.numpy() for name, tensor in state.part("table").tensors.items()}
        self.shards_N, self.before_N, self.moves_M4 = table["shards"], table["before"], table["moves"]

    def _boundary(self, done: int) -> int:
        """The step of a shard's run at which so many rounds are done."""
        return round(done * self._steps / self.rule.rounds)


def begin_shard(model: Model, films: TrainingSet, recipe: Recipe, rule: EnsembleRule, task: ShardTask, own: State | None) -> Run:
    """A shard's run as its round begins: its `own` state after the round before with all shards' average, or from the start.

    `model` is as it was before the first round, and is trained; `films` are all of them.
    """
    GlobalStreams().restore(task.streams)
    mine = shard_recipe(recipe, films, rule, task.shard)
    loss = DenoisingLoss(model, films.subset(task.rows), mine)
    run = Run(mine.modules(model), loss, mine.optimisation)
    if own is not None and task.averaged is not None:
        moved = own.with_part("loss", move_deck(own.part("loss"), task.rows_before, task.rows))
        run.restore(with_average(moved, task.averaged))
    return run


def shard_recipe(recipe: Recipe, films: TrainingSet, rule: EnsembleRule, shard: int) -> Recipe:
    """A shard's share of the steps, and random numbers of its own; the first has the job's. Random words come from all prompts."""
    seed = recipe.seed if shard == 0 else int(np.random.SeedSequence([recipe.seed, shard]).generate_state(1)[0])
    captions = tuple(partial(_opened_with, opens, films.prompts) for opens in recipe.captions)
    return replace(recipe, steps=recipe.steps // rule.shards, seed=seed, captions=captions)


def _opened_with(
    opens: Callable[[Model, Sequence[str]], CaptionTransform], prompts: Sequence[str], model: Model, _of_shard: Sequence[str]
) -> CaptionTransform:
    return opens(model, prompts)
