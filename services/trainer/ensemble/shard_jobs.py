"""The job of one shard in one round: goes on from the shard's own state and all shards' average, and ends with a state that is kept."""

from __future__ import annotations

import shutil
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from services.trainer.checkpointing import Cadence, TrainingCheckpoints
from services.trainer.denoising_loss import Recipe
from services.trainer.ensemble.rounds import PHASE, Ensemble, begin_shard
from services.trainer.ensemble.shard_spec import ShardSpec, shard_folder
from services.trainer.finished_parts import FinishedParts
from services.trainer.preparation import prepare
from services.trainer.skip_counts import SkipCounts
from services.trainer.training_jobs import open_model, read_training_set
from services.trainer.training_progress import Progress
from services.trainer.uploads import Uploads
from shared.catalog import Catalog
from shared.diffusion.checkpoint_store import Checkpoint, CheckpointStore
from shared.diffusion.checkpoints import State
from shared.jobs.context import JobContext
from shared.storage import ObjectStore, integrity_failure, open_store
from shared.storage.patience import STORE_PATIENCE, PatientStore


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
        self.values: list[Tensor] = []

    def state(self) -> State:
        """All so far."""
        return State({"losses": torch.stack(self.values)} if self.values else {})

    def restore(self, state: State) -> None:
        """Go on after them."""
        self.values = list(state.tensors.get("losses", torch.empty(0)))


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
        training, rule = self.spec.spec, self.spec.rule
        dataset = self.catalog.get("dataset", training.dataset)
        base = self.catalog.get("model", training.base) if training.base is not None else None
        films, recipe = prepare(read_training_set(dataset, self.catalog), training).films, Recipe.of(training)
        model = open_model(training, films, dataset, base, self.catalog)
        begins = self._checkpoints(self.patient_store, self.spec.training).read(self.spec.begins_with).state
        FinishedParts(model).restore(begins.part("parts"))
        ensemble = Ensemble(films, recipe, rule, SkipCounts(films))
        ensemble.restore(begins.part("run"))
        task = ensemble.tasks()[self.spec.shard]

        found = self._last_checkpoint(task.begins)
        if found is not None and found.step == task.ends:
            return task.ends
        progress, losses = Progress(self.context, total=task.ends), RoundLosses()
        keeping = self._keeping(progress)
        is_begun = found is not None and found.step > task.begins
        keeping.open(found if is_begun else None, {"losses": losses})
        own = found.state.part("run") if found is not None and not is_begun else None
        del found  # as large as all that the run holds
        progress.begin_phase(PHASE, training.batch_size * training.gradient_accumulation)
        run = begin_shard(model, films, recipe, rule, task, own)
        del own
        keeping.restore(PHASE, run)

        def on_step(step: int, loss: Tensor) -> None:
            losses.values.append(loss)
            progress(step + 1, task.ends, PHASE, loss)

        run.advance_until(task.ends, on_step, keeping.of_phase(PHASE))
        keeping.commit(PHASE, run, self._checkpoints(self.patient_store, self._folder))  # what the average is made of
        return task.ends

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
