"""The job of one shard in one round: goes on from the shard's own state and all shards' average, and ends with a state that is kept."""

from __future__ import annotations

import shutil
from contextlib import closing
from typing import Any, Final

import torch
from torch import Tensor

from services.trainer.checkpointing import Cadence, TrainingCheckpoints
from services.trainer.denoising_loss import Recipe
from services.trainer.ensemble.rounds import PHASE, Ensemble, ShardTask, begin_shard
from services.trainer.ensemble.shard_spec import ShardSpec, shard_folder
from services.trainer.finished_parts import FinishedParts
from services.trainer.preparation import prepare
from services.trainer.skip_counts import SkipCounts
from services.trainer.training_jobs import open_model, read_training_set
from services.trainer.training_progress import Progress
from services.trainer.training_set import TrainingSet
from services.trainer.uploads import Uploads
from shared.catalog import Catalog
from shared.diffusion.checkpoint_store import Checkpoint, CheckpointStore
from shared.diffusion.checkpoints import State
from shared.diffusion.model import Model
from shared.jobs.context import JobContext
from shared.storage import ObjectStore, integrity_failure, open_store
from shared.storage.patience import STORE_PATIENCE, PatientStore

READ_AT_ONCE: Final = 1024


def run_shard(context: JobContext) -> dict[str, Any]:
    """Take a shard's steps of a round, unless that has happened; answers how far its own run is."""
    spec = ShardSpec.model_validate(context.spec)
    torch.set_num_threads(spec.torch_threads)
    with closing(open_store(context.settings)) as store, closing(Uploads()) as uploads:
        attempt = _Attempt(context, spec, store, uploads)
        try:
            return {"step": attempt.run()}
        finally:
            shutil.rmtree(attempt.scratch, ignore_errors=True)


class RoundLosses:
    """The losses of a shard's steps in the present round, for the training's curve."""

    def __init__(self) -> None:
        self._values: list[float] = []
        self._unread: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Note a step's; they are read from the device many at a time, for each reading waits for it."""
        self._unread.append(loss)
        if len(self._unread) == READ_AT_ONCE:
            self._read()

    def state(self) -> State:
        """All so far."""
        self._read()
        return State({"losses": torch.tensor(self._values)} if self._values else {})

    def restore(self, state: State) -> None:
        """Go on after them."""
        self._values = state.tensors.get("losses", torch.empty(0)).tolist()

    def _read(self) -> None:
        if self._unread:
            self._values += torch.stack(self._unread).tolist()
            self._unread.clear()


class _Attempt:
    """One attempt at a shard's part of a round."""

    def __init__(self, context: JobContext, spec: ShardSpec, store: ObjectStore, uploads: Uploads) -> None:
        home = context.settings.home.resolve()
        self.context = context
        self.spec = spec
        self.store = store
        self.uploads = uploads
        self.patient_store = PatientStore(store, limit=STORE_PATIENCE, check=context.check_cancelled)
        self.catalog = Catalog(self.patient_store, home / "cache")
        self.scratch = home / "trainings" / spec.training / context.id

    def run(self) -> int:
        """All steps of the round that are not done yet; answers the last one's number."""
        model, films, task = self._beginning()
        ends = task.ends
        found = self._last_checkpoint(task.begins)
        if found is not None and found.step == ends:
            return ends
        progress, losses = Progress(self.context, total=ends), RoundLosses()
        keeping = self._keeping(progress)
        is_begun = found is not None and found.step > task.begins
        keeping.open(found if is_begun else None, {"losses": losses})
        own = found.state.part("run") if found is not None and not is_begun else None
        run = begin_shard(model, films, Recipe.of(self.spec.spec), self.spec.rule, task, own)
        del found, own, films, task  # the run has taken over what it needs: the states are as large as all that it holds
        keeping.restore(PHASE, run)
        progress.begin_phase(PHASE, self.spec.spec.batch_size * self.spec.spec.gradient_accumulation)

        def on_step(step: int, loss: Tensor) -> None:
            losses.add(loss)
            progress(step + 1, ends, PHASE, loss)

        run.advance_until(ends, on_step, keeping.of_phase(PHASE))
        keeping.commit(PHASE, run, self._checkpoints(self.patient_store, self._folder))  # what the average is made of
        return ends

    def _beginning(self) -> tuple[Model, TrainingSet, ShardTask]:
        """What the training's process left for the round: the model as it was before the first one, all films, and the task."""
        training = self.spec.spec
        dataset = self.catalog.get("dataset", training.dataset)
        base = self.catalog.get("model", training.base) if training.base is not None else None
        films = prepare(read_training_set(dataset, self.catalog), training).films
        model = open_model(training, films, dataset, base, self.catalog)
        begins = self._checkpoints(self.patient_store, self.spec.training).read(self.spec.begins_with).state
        FinishedParts(model).restore(begins.part("parts"))
        ensemble = Ensemble(films, Recipe.of(training), self.spec.rule, SkipCounts(films))
        ensemble.restore(begins.part("run"))
        return model, films, ensemble.tasks()[self.spec.shard]

    def _last_checkpoint(self, begins: int) -> Checkpoint | None:
        """Where the shard is; that of the round before is what its part of this one begins with."""
        found = self._checkpoints(self.patient_store, self._folder).newest()
        if (0 if found is None else found.step) < begins:
            raise integrity_failure(f"The state of shard {self.spec.shard} after round {self.spec.round - 1}", kind="object")
        return found

    def _keeping(self, progress: Progress) -> TrainingCheckpoints:
        settings = self.context.settings
        return TrainingCheckpoints(
            self.context,
            store=self.store,
            checkpoints=self._checkpoints(self.store, self._folder),
            uploads=self.uploads,
            cadence=Cadence(settings.checkpoint_seconds, self.spec.spec.checkpoint_every),
            progress=progress,
            folder=self._folder,
        )

    @property
    def _folder(self) -> str:
        return shard_folder(self.spec.training, self.spec.shard)

    def _checkpoints(self, store: ObjectStore, folder: str) -> CheckpointStore:
        return CheckpointStore(store, folder, scratch=self.scratch, keep=self.context.settings.checkpoints_kept)
