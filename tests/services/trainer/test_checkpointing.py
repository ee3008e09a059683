"""When a training is kept, and what an interruption, a cancellation and a take-over do to it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from services.trainer import checkpointing
from services.trainer.checkpointing import Cadence, TrainingCheckpoints
from services.trainer.training_progress import Progress
from services.trainer.uploads import Uploads
from shared.diffusion.checkpoint_store import CheckpointStore
from shared.diffusion.checkpoints import State
from shared.diffusion.optimisation import Optimisation, optimise
from shared.diffusion.ranks import Ranks
from shared.errors import JobCancelledError, UnavailableError
from shared.jobs.context import JobInterruptedError, JobTakenOverError
from shared.storage import DirectoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLAN = Optimisation(10, 0.05, ema_decay=0.9)


class Context:
    """A job's context that stops where the test says."""

    id = "job_1"

    def __init__(self) -> None:
        self.stop: dict[int, type[Exception]] = {}
        self.checks = 0
        self.messages: list[str] = []
        self.safe = 0

    def check_cancelled(self) -> None:
        self.checks += 1
        if self.checks in self.stop:
            raise self.stop[self.checks]

    def report(self, _step: int, _total: int, message: str, **_values: float) -> None:
        self.messages.append(message)

    def note_safe(self) -> None:
        self.safe += 1


class Desk:
    """A training of one phase, and where it is kept."""

    def __init__(self, folder: Path) -> None:
        self.store = DirectoryStore(folder / "store")
        self.kept = CheckpointStore(self.store, "job_1", scratch=folder / "scratch", keep=2)
        self.uploads = Uploads()
        self.context = Context()

    def train(self, cadence: Cadence, *, phase: str = "denoiser", ranks: Ranks | None = None) -> int:
        """Run the phase from the last checkpoint on; answers how many steps it took."""
        context: Any = self.context
        self.progress = Progress(context, total=PLAN.steps)
        self.progress.begin_phase(phase)
        checkpoints = TrainingCheckpoints(
            context,
            store=self.store,
            checkpoints=self.kept,
            uploads=self.uploads,
            cadence=cadence,
            progress=self.progress,
            ranks=ranks or Ranks(),
        )
        checkpoints.open(self.kept.newest(), {})
        self.steps = 0
        torch.manual_seed(0)
        self.network = nn.Linear(2, 1)

        def loss(_step: int) -> torch.Tensor:
            self.steps += 1
            if cadence.steps is not None:
                assert self.uploads.wait(30)  # so that every checkpoint is written, not only the newest
            return self.network(torch.rand(4, 2)).square().mean()

        def tell(step: int, value: torch.Tensor) -> None:
            self.progress(step + 1, PLAN.steps, phase, value)

        optimise([self.network], loss, PLAN, tell, checkpoints.of_phase(phase))
        assert self.uploads.wait(30)
        return self.steps


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.uploads.close()


@pytest.mark.parametrize(
    ("cadence", "step", "since", "due"),
    [
        (Cadence(60), 100, 59.9, False),
        (Cadence(60), 1, 60.0, True),
        (Cadence(60, 10), 10, 0.0, True),
        (Cadence(60, 10), 11, 0.0, False),
        (Cadence(60, 10), 11, 61.0, True),
    ],
)
def test_training_is_kept_by_time_and_by_steps(cadence: Cadence, step: int, since: float, due: bool) -> None:
    assert cadence.is_due(step=step, since=since) is due


def test_short_training_keeps_nothing(desk: Desk) -> None:
    assert desk.train(Cadence(60)) == 10
    assert desk.kept.steps() == []
    assert desk.context.safe == 0


def test_last_checkpoints_are_kept_and_told(desk: Desk) -> None:
    desk.train(Cadence(60, 3))
    assert desk.kept.steps() == [6, 9]
    assert desk.context.safe == 3
    curves = json.loads(desk.store.get(key="checkpoints/job_1/losses.json"))["curves"]
    assert (curves[0]["phase"], curves[0]["steps"], len(curves[0]["points"])) == ("denoiser", 9, 9)


def test_interruption_keeps_the_very_step_and_the_next_attempt_goes_on_there(desk: Desk) -> None:
    desk.train(Cadence(60))
    whole = desk.network.weight.detach().clone()
    desk.context.stop = {desk.context.checks + 7: JobInterruptedError}
    with pytest.raises(JobInterruptedError):
        desk.train(Cadence(60))
    assert desk.kept.steps() == [7]
    assert desk.train(Cadence(60)) == 3
    assert desk.context.messages.count("going on from step 7") == 1
    assert torch.equal(desk.network.weight, whole)


class Counter:
    """Something other than a run that goes on step by step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def state(self) -> State:
        return State({"step": torch.tensor(self.step)})

    def restore(self, state: State) -> None:
        self.step = int(state.tensors["step"])


def opened(desk: Desk, folder: str | None = None) -> TrainingCheckpoints:
    context: Any = desk.context
    progress = Progress(context, total=10)
    progress.begin_phase("denoiser")
    made = TrainingCheckpoints(
        context, store=desk.store, checkpoints=desk.kept, uploads=desk.uploads, cadence=Cadence(60), progress=progress, folder=folder
    )
    made.open(desk.kept.newest(), {})
    return made


def test_what_is_committed_is_there_at_once_and_gone_on_with(desk: Desk) -> None:
    checkpoints = opened(desk, "job_1/shards/2")
    assert not checkpoints.restore("denoiser", Counter(0))
    desk.uploads.offer("slow", lambda: time.sleep(0.3))
    checkpoints.commit("denoiser", Counter(7), desk.kept)
    assert desk.kept.steps() == [7]
    assert desk.context.safe == 1
    assert desk.uploads.wait(30)
    assert desk.store.exists(key="checkpoints/job_1/shards/2/losses.json")
    again, other = Counter(0), Counter(0)
    assert opened(desk).restore("denoiser", again)
    assert again.step == 7
    assert not opened(desk).restore("autoencoder", other)
    assert other.step == 0


def test_commit_waits_for_uploads_and_hears_that_it_is_to_stop(desk: Desk) -> None:
    desk.uploads.offer("slow", lambda: time.sleep(1.0))
    desk.context.stop = {2: JobCancelledError}
    with pytest.raises(JobCancelledError):
        opened(desk).commit("denoiser", Counter(7), desk.kept)
    assert desk.kept.steps() == []


def test_cancellation_stops_at_the_next_step_and_keeps_nothing_more(desk: Desk) -> None:
    desk.context.stop = {4: JobCancelledError}
    with pytest.raises(JobCancelledError):
        desk.train(Cadence(60))
    assert desk.steps == 4
    assert desk.kept.steps() == []


def test_attempt_that_was_taken_over_writes_nothing(desk: Desk) -> None:
    desk.context.stop = {4: JobTakenOverError}
    with pytest.raises(JobTakenOverError):
        desk.train(Cadence(60))
    assert desk.kept.steps() == []


def test_interruption_while_the_store_is_away_ends_in_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(**_words: object) -> None:
        raise UnavailableError("away")

    monkeypatch.setattr(checkpointing, "LAST_UPLOAD_SECONDS", 0.1)
    monkeypatch.setattr(desk.store, "put_file", away)
    desk.context.stop = {4: JobInterruptedError}
    with pytest.raises(JobInterruptedError):
        desk.train(Cadence(60))


def test_only_the_leader_keeps(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranks, "shared", lambda _self, module: module)
    monkeypatch.setattr(Ranks, "mean", lambda _self, value: value)
    desk.train(Cadence(60, 3), ranks=Ranks(1, 2))
    assert desk.kept.steps() == []
    assert desk.context.checks == 0


def test_finished_phases_are_told_from_those_to_come(desk: Desk) -> None:
    desk.train(Cadence(60, 10), phase="text encoder")
    context: Any = desk.context
    checkpoints = TrainingCheckpoints(
        context, store=desk.store, checkpoints=desk.kept, uploads=desk.uploads, cadence=Cadence(60), progress=desk.progress
    )
    assert not checkpoints.is_past("autoencoder")
    checkpoints.open(desk.kept.newest(), {})
    assert [checkpoints.is_past(phase) for phase in checkpointing.PHASES] == [True, False, False]
