"""The job of one shard in one round, looked at by itself."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch

from services.trainer import training_progress
from services.trainer.denoising_loss import Recipe
from services.trainer.ensemble import shard_jobs
from services.trainer.ensemble.ensemble_jobs import clear_away_shards
from services.trainer.ensemble.rounds import ShardTask, begin_shard
from services.trainer.ensemble.rules import EnsembleRule
from services.trainer.ensemble.shard_jobs import RoundLosses, run_shard
from services.trainer.training_jobs import run_training
from services.trainer.training_set import TrainingSet
from shared.catalog import new_id
from shared.diffusion.checkpoint_store import CheckpointStore
from shared.diffusion.checkpoints import State
from shared.diffusion.model import Model
from shared.diffusion.optimisation import Run
from shared.errors import IntegrityError, NotFoundError
from shared.jobs.context import JobContext
from shared.jobs.records import JobStore
from shared.storage import open_store
from tests.services.trainer.ensemble.shards_here import KilledError, ShardsHere
from tests.services.trainer.ensemble.test_ensemble_jobs import shards_here, spec

if TYPE_CHECKING:
    from tests.fixtures.models import StockedHome

    MakeContext = Callable[..., JobContext]


@pytest.fixture
def second_round(context: MakeContext, stocked_home: StockedHome) -> dict[str, Any]:
    """What the first shard was told of the second round of a training that died as that began."""
    small = {"parameters": {"kind": "bias_norm"}, "text_encoder": "frozen", "checkpoint_every": None}
    job = context("training", new_id("job"), spec(stocked_home, ensemble={"rounds": 2}, **small))

    def dies(job_id: str) -> None:
        if job_id.endswith("r2-s0"):
            raise KilledError

    with shards_here(ShardsHere(stocked_home.settings, dies)), pytest.raises(KilledError):
        run_training(job)
    return JobStore(stocked_home.settings.sql_url).get(f"{job.id}-r2-s0").spec


def kept(home: StockedHome, told: dict[str, Any]) -> CheckpointStore:
    """The states of the first shard."""
    return CheckpointStore(open_store(home.settings), f"{told['training']}/shards/0", scratch=home.folder / "scratch", keep=2)


def test_losses_of_a_round_go_on() -> None:
    losses, again = RoundLosses(), RoundLosses()
    again.restore(losses.state())
    assert again.state().tensors == {}
    losses.add(torch.tensor(2.0))
    losses.add(torch.tensor(1.1))
    again.restore(losses.state().copied())
    again.add(torch.tensor(0.5))
    assert torch.equal(again.state().tensors["losses"], torch.tensor([2.0, 1.1, 0.5]))


def test_losses_are_read_many_at_a_time_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_jobs, "READ_AT_ONCE", 4)
    reads: list[int] = []
    stack = torch.stack
    monkeypatch.setattr(torch, "stack", lambda tensors: reads.append(len(tensors)) or stack(tensors))
    losses = RoundLosses()
    for number in range(10):
        losses.add(torch.tensor(float(number)))
    assert reads == [4, 4]
    assert losses.state().tensors["losses"].tolist() == list(range(10))
    assert losses.state().tensors["losses"].tolist() == list(range(10))
    assert reads == [4, 4, 2]


def test_shard_takes_its_steps_of_the_round_once_with_the_threads_it_is_told(
    context: MakeContext, stocked_home: StockedHome, second_round: dict[str, Any]
) -> None:
    told = second_round | {"torch_threads": 3}
    assert kept(stocked_home, told).steps() == [4]
    with mock.patch.object(torch, "set_num_threads") as threads:
        assert run_shard(context("shard", new_id("job"), told)) == {"step": 8}
    threads.assert_called_once_with(3)
    found = kept(stocked_home, told).newest()
    assert found is not None
    assert (found.step, found.state.facts["run"]["step"], len(found.state.part("losses").tensors["losses"])) == (8, 8, 4)
    with mock.patch.object(shard_jobs, "begin_shard", side_effect=AssertionError("trained twice")):
        assert run_shard(context("shard", new_id("job"), told)) == {"step": 8}
    assert not list((stocked_home.folder / "trainings" / told["training"]).iterdir())


def test_shard_holds_neither_all_films_nor_what_it_began_with_while_it_learns(context: MakeContext, second_round: dict[str, Any]) -> None:
    held: list[weakref.ref[Any]] = []
    begin, advance = begin_shard, Run.advance_until

    def watched(model: Model, films: TrainingSet, recipe: Recipe, rule: EnsembleRule, task: ShardTask, own: State | None) -> Run:
        assert task.averaged is not None
        assert own is not None
        held.extend(map(weakref.ref, (films, films.images_NHW, task, own, *task.averaged.tensors.values())))
        return begin(model, films, recipe, rule, task, own)

    def learning(self: Run, *told: Any) -> None:
        assert [kept() for kept in held] == [None] * len(held)
        advance(self, *told)

    with mock.patch.object(shard_jobs, "begin_shard", watched), mock.patch.object(Run, "advance_until", learning):
        run_shard(context("shard", new_id("job"), second_round))
    assert len(held) > 4


def test_first_speed_that_is_told_is_of_the_rounds_steps(
    context: MakeContext, second_round: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the four steps of the second round, each a fifth of a second or longer; the first round's are not among them."""
    monkeypatch.setattr(training_progress, "LOSS_READ_SECONDS", 0.0)
    advance = Run.advance
    monkeypatch.setattr(Run, "advance", lambda self: time.sleep(0.2) or advance(self))
    job = context("shard", new_id("job"), second_round)
    told: list[dict[str, Any]] = []
    with mock.patch.object(job, "report", lambda *_facts, **values: told.append(values)):
        run_shard(job)
    assert [values["step_seconds"] >= 0.2 for values in told if "step_seconds" in values] == [True] * 4


def test_shard_without_its_state_of_the_round_before_says_so(
    context: MakeContext, stocked_home: StockedHome, second_round: dict[str, Any]
) -> None:
    kept(stocked_home, second_round).remove()
    with pytest.raises(IntegrityError, match="shard 0 after round 1"):
        run_shard(context("shard", new_id("job"), second_round))


def test_shard_of_a_training_that_is_gone_is_an_error(
    context: MakeContext, stocked_home: StockedHome, second_round: dict[str, Any]
) -> None:
    records, store = JobStore(stocked_home.settings.sql_url), open_store(stocked_home.settings)
    clear_away_shards(records, store, {second_round["training"]: False})
    CheckpointStore(store, second_round["training"], scratch=stocked_home.folder / "scratch", keep=1).remove()
    with pytest.raises(NotFoundError):
        run_shard(context("shard", new_id("job"), second_round))
