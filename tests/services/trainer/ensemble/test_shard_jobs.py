"""The job of one shard in one round, looked at by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch

from services.trainer.ensemble import shard_jobs
from services.trainer.ensemble.ensemble_jobs import clear_away_shards
from services.trainer.ensemble.shard_jobs import RoundLosses, run_shard
from services.trainer.training_jobs import run_training
from shared.catalog import new_id
from shared.diffusion.checkpoint_store import CheckpointStore
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
    assert again.values == []
    losses.values += [torch.tensor(2.0), torch.tensor(1.0)]
    again.restore(losses.state().copied())
    again.values.append(torch.tensor(0.5))
    assert again.state().tensors["losses"].tolist() == [2.0, 1.0, 0.5]


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
    clear_away_shards(records, store, second_round["training"], forget=False)
    CheckpointStore(store, second_round["training"], scratch=stocked_home.folder / "scratch", keep=1).remove()
    with pytest.raises(NotFoundError):
        run_shard(context("shard", new_id("job"), second_round))
