"""A training job: reads a data set's films, trains autoencoder, text encoder and denoiser on them, and commits the model.

The model's id follows from the job's, and every random number from the seed: a job that is killed goes on from its last
checkpoint, or begins again without one, and ends with the same model, once.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from services.trainer import text_pretraining, training
from services.trainer.activation_memory import Networks
from services.trainer.architectures import build_tiny
from services.trainer.caption_transforms import all_texts, caption_metrics
from services.trainer.checkpointing import Cadence, TrainingCheckpoints
from services.trainer.control_films import refuse_controls
from services.trainer.deduplication import Dropped
from services.trainer.denoising_loss import Recipe
from services.trainer.ensemble.ensemble_jobs import Desk, clear_away_shards, train_in_rounds
from services.trainer.ensemble.move_log import moved_records, write_moves
from services.trainer.ensemble.rounds import Ensemble
from services.trainer.ensemble.rules import EnsembleRule
from services.trainer.finished_parts import FinishedParts
from services.trainer.parameters.deltas import write_deltas
from services.trainer.preflight import Estimate, require_memory
from services.trainer.preparation import prepare
from services.trainer.prompt_window import count_long_prompts
from services.trainer.skip_counts import SkipCounts
from services.trainer.text_pretraining import train_text_encoder
from services.trainer.training import train_autoencoder, train_denoiser
from services.trainer.training_progress import Progress
from services.trainer.training_set import TrainingSet
from services.trainer.training_spec import TrainingSpec
from services.trainer.uploads import Uploads
from services.trainer.validation_strip import ValidationStrip, offer_strip
from shared.catalog import Catalog, DatasetManifest, ModelManifest
from shared.diffusion.checkpoint_store import FOLDER, Checkpoint, CheckpointStore
from shared.diffusion.device import announce_device, available_device
from shared.diffusion.model import Model
from shared.diffusion.optimisation import Checkpoints, Run
from shared.diffusion.ranks import ALONE, Ranks
from shared.errors import InvalidRequestError, JobCancelledError, NotFoundError, UnavailableError
from shared.imaging.films import FilmTable
from shared.jobs.context import JobContext
from shared.jobs.records import JobState, JobStore
from shared.storage import ObjectStore, open_store
from shared.storage.patience import STORE_PATIENCE, PatientStore
from shared.telemetry import get_logger, lethe_version

LAST_UPLOADS_SECONDS: Final = 60.0  # what the last curves and strips get to be stored in; the store has just answered

Look = Callable[[Run], None]
"""Sees the run after each step, before it is kept. May raise to stop it."""
OpenLook = Callable[[Model, Progress], Look]

_LOG = get_logger(__name__)


def run_training(context: JobContext, ranks: Ranks = ALONE) -> dict[str, Any]:
    """One rank's part of what the job's spec asks for, by default the whole; answers the model's id and its metrics."""
    if context.settings.torch_threads:
        torch.set_num_threads(context.settings.torch_threads)
    with closing(open_store(context.settings)) as store:
        attempt = Attempt(context, TrainingSpec.model_validate(context.spec), store, ranks)
        with attempt.scratch_folder():
            attempt.clear_away(context.ended_siblings())
            try:
                manifest = attempt.run()
            except JobCancelledError:
                attempt.clear_away({context.id: "cancelled"})
                raise
            attempt.clear_away({context.id: "succeeded"})
    return {"model": manifest.id, "metrics": manifest.metrics}


class Attempt:
    """One attempt at a training, from its last checkpoint on if there is one."""

    def __init__(
        self, context: JobContext, spec: TrainingSpec, store: ObjectStore, ranks: Ranks = ALONE, open_look: OpenLook | None = None
    ) -> None:
        """`open_look` has the denoiser looked at after each step, in the place of validation strips."""
        self.context = context
        self.spec = spec
        self.ranks = ranks
        self.open_look = open_look
        home = context.settings.home.resolve()
        self.scratch = home / "trainings" / context.id
        self.store = store
        self.patient_store = PatientStore(store, limit=STORE_PATIENCE, check=context.check_cancelled)
        self.catalog = Catalog(self.patient_store, home / "cache")
        self.dropped: Dropped | None = None
        self.skips: SkipCounts | None = None
        self.moves: NDArray[np.int64] | None = None
        self.deltas: dict[str, torch.Tensor] = {}
        self.model_id = context.id.replace("job_", "mdl_", 1)

    def run(self) -> ModelManifest:
        """Train and commit the model, unless that has happened."""
        try:
            return self.catalog.get("model", self.model_id)
        except NotFoundError:
            pass
        dataset = self.catalog.get("dataset", self.spec.dataset)
        base = self.catalog.get("model", self.spec.base) if self.spec.base is not None else None
        if base is not None:
            refuse_controls(dataset, base, self.catalog)
        if self.ranks.leads:
            folder = self.catalog.fetch(base) if base is not None else None
            require_memory(Estimate.of(dataset, folder, announce_device()), self._of_one_machine())
        progress = Progress(self.context, total=sum(steps_of_phases(self.spec).values()))
        self.context.report(0, progress.total, "reading the films")
        prepared = prepare(read_training_set(dataset, self.catalog), self.spec)
        films, self.dropped = prepared.films, prepared.dropped
        if self.dropped is not None and self.dropped.clusters_across_patients and self.ranks.leads:
            _LOG.warning("films of several patients show the same picture", **self.dropped.totals())
        model = open_model(self.spec, films, dataset, base, self.catalog)
        metrics: dict[str, Any] = {"films": len(films.prompts), "visits_per_epoch": int(films.repeats.sum())} | prepared.metrics
        metrics["truncated_prompts"] = count_long_prompts(model, films.prompts, truncate=self.spec.truncate_prompts)
        metrics |= caption_metrics(model, films.prompts, self.spec.captions)
        if self.spec.batch_filter is not None:
            self.skips = SkipCounts(films)
        metrics |= self._learn(model, films, progress)
        if self.skips is not None:
            metrics |= self.skips.totals()
        if (rule := self.spec.ensemble) is not None:
            moved = 0 if self.moves is None else len(moved_records(self.moves))
            metrics |= {"shards": rule.shards, "rounds": rule.rounds, "moved_films": moved}
        return self._commit(model, metrics, dataset, base, progress)

    def clear_away(self, ended: Mapping[str, JobState]) -> None:
        """Remove what jobs that ended so kept, of a failed one the shards' states alone: there may be something to save.

        What cannot be removed now waits for another training.
        """
        if not self.ranks.leads:
            return
        try:
            kept = set(self.store.list_folders(prefix=f"{FOLDER}/")) & ended.keys()
            with closing(JobStore(self.context.settings.sql_url)) as records:
                clear_away_shards(records, self.store, {job_id: ended[job_id] != "failed" for job_id in kept})
            for job_id in kept:
                if ended[job_id] != "failed":
                    self._checkpoints(self.store, job_id).remove()
        except UnavailableError as error:
            _LOG.warning("checkpoints of ended jobs not removed", exc_info=error)

    def _of_one_machine(self) -> TrainingSpec:
        """What this machine is to hold: shards that learn at once are jobs of their own on a cluster's nodes."""
        if self.spec.ensemble is None or not self.context.settings.ray_address:
            return self.spec
        return self.spec.model_copy(update={"ensemble": self.spec.ensemble.model_copy(update={"parallel": 1})})

    @contextmanager
    def scratch_folder(self) -> Iterator[None]:
        """A local folder for files on their way, rid of what a killed attempt left in it."""
        if not self.ranks.leads:
            yield
            return
        shutil.rmtree(self.scratch, ignore_errors=True)
        try:
            yield
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _learn(self, model: Model, films: TrainingSet, progress: Progress) -> dict[str, Any]:
        """All phases, from the last checkpoint on; answers what came of them."""
        spec = self.spec
        with closing(Uploads()) as uploads:
            checkpoints = TrainingCheckpoints(
                self.context,
                store=self.store,
                checkpoints=self._checkpoints(self.store, self.context.id),
                uploads=uploads,
                cadence=Cadence(self.context.settings.checkpoint_seconds, spec.checkpoint_every),
                progress=progress,
                ranks=self.ranks,
            )
            parts = FinishedParts(model)
            phases = _Phases(checkpoints, progress, parts, steps_of_phases(spec))
            look = self._look(model, progress, uploads)
            checkpoints.open(self._last_checkpoint(), {"parts": parts})
            if spec.base is None:
                phases.train(
                    "autoencoder",
                    lambda kept: train_autoencoder(model, films, spec.seed, progress, kept, self.ranks),
                    images_per_step=training.AUTOENCODER_BATCH,
                    makes="vae",
                )
                phases.train(
                    "text encoder",
                    lambda kept: train_text_encoder(model, films.prompts, spec.seed, progress, kept),
                    makes="text_encoder",
                )
            phases.train(
                "denoiser",
                lambda kept: self.deltas.update(
                    train_denoiser(model, films, Recipe.of(spec), progress, kept, self.ranks, self.skips)
                    if spec.ensemble is None
                    else self._train_ensemble(model, films, spec.ensemble, checkpoints, progress)
                ),
                images_per_step=spec.batch_size * spec.gradient_accumulation,
                look=look,
            )
            if self.ranks.leads:
                checkpoints.offer_curves()
                self.catalog.ping()
                if not uploads.wait(LAST_UPLOADS_SECONDS):
                    _LOG.warning("the last curves and strips were not written in time")
        return _metrics(model, spec, progress)

    def _train_ensemble(
        self, model: Model, films: TrainingSet, rule: EnsembleRule, checkpoints: TrainingCheckpoints, progress: Progress
    ) -> dict[str, torch.Tensor]:
        """The denoiser by several that are averaged; answers what was learnt by numbers that the weights do not show."""
        recipe = Recipe.of(self.spec)
        ensemble = Ensemble(films, recipe, rule, SkipCounts(films) if self.skips is None else self.skips)
        desk = Desk(self.context, self.spec, self.store, checkpoints, progress, partial(self._checkpoints, self.patient_store))
        train_in_rounds(desk, ensemble)
        self.moves = ensemble.moves_M4 if rule.redistribute is not None else None
        return ensemble.finish(model, recipe)

    def _look(self, model: Model, progress: Progress, uploads: Uploads) -> Look:
        """What is done between the denoiser's steps beside keeping them."""
        spec = self.spec
        if self.open_look is not None:
            return self.open_look(model, progress)
        if spec.validation is None or not self.ranks.leads:
            return lambda _run: None
        strip = ValidationStrip(model, spec.validation.prompts, every=spec.validation.every, seed=spec.seed, guided=spec.prompt_dropout > 0)
        return partial(offer_strip, strip, store=self.store, job_id=self.context.id, uploads=uploads)

    def _last_checkpoint(self) -> Checkpoint | None:
        """The newest whole checkpoint; the leader says which one it is."""
        checkpoints = self._checkpoints(self.patient_store, self.context.id)
        if not self.ranks.leads:
            step = self.ranks.agreed(-1)
            return checkpoints.read(step) if step >= 0 else None
        found = checkpoints.newest()
        self.ranks.agreed(found.step if found is not None else -1)
        return found

    def _checkpoints(self, store: ObjectStore, job_id: str) -> CheckpointStore:
        return CheckpointStore(store, job_id, scratch=self.scratch, keep=self.context.settings.checkpoints_kept)

    def _commit(
        self, model: Model, metrics: dict[str, Any], dataset: DatasetManifest, base: ModelManifest | None, progress: Progress
    ) -> ModelManifest:
        manifest = _manifest(self.context, self.spec, self.model_id, model, metrics, dataset, base)
        if not self.ranks.leads:
            return manifest
        self.context.report(progress.total, progress.total, "storing the model")
        self.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix="model-") as folder:
            model.save(Path(folder))
            write_deltas(Path(folder), self.deltas)
            if self.dropped is not None:
                self.dropped.write(Path(folder))
            if self.skips is not None:
                self.skips.write(Path(folder))
            if self.moves is not None:
                write_moves(Path(folder), self.moves)
            self.context.check_cancelled()
            return self.catalog.commit(manifest, Path(folder))


@dataclass(frozen=True)
class _Phases:
    """Runs the phases that are not done yet, one after another."""

    checkpoints: TrainingCheckpoints
    progress: Progress
    parts: FinishedParts
    steps: dict[str, int]

    def train(
        self,
        phase: str,
        learn: Callable[[Checkpoints], None],
        *,
        images_per_step: int = 0,
        makes: str | None = None,
        look: Look = lambda _run: None,
    ) -> None:
        """One phase, unless an earlier attempt finished it; what it `makes` of the model is kept from then on."""
        if self.checkpoints.is_past(phase):
            return
        self.progress.begin_phase(phase, images_per_step)
        learn(self.checkpoints.of_phase(phase, look))
        self.progress.end_phase(self.steps[phase])
        if makes is not None:
            self.parts.add(makes)


def steps_of_phases(spec: TrainingSpec) -> dict[str, int]:
    """How many steps each phase takes; with a base there is only the last one."""
    first = {"autoencoder": training.AUTOENCODER_STEPS, "text encoder": text_pretraining.STEPS} if spec.base is None else {}
    shards = spec.ensemble.shards if spec.ensemble is not None else 1
    return first | {"denoiser": spec.steps // shards * shards}


def open_model(spec: TrainingSpec, films: TrainingSet, dataset: DatasetManifest, base: ModelManifest | None, catalog: Catalog) -> Model:
    """The base, or random weights; the generators that nobody passes around begin at the spec's seed."""
    torch.manual_seed(spec.seed)
    np.random.seed(spec.seed % 2**32)  # noqa: NPY002 - libraries draw from it
    random.seed(spec.seed)
    if base is None:
        return replace(build_tiny(all_texts(films.prompts, spec.captions), dataset.image_size), device=torch.device(available_device()))
    model = Model.load(catalog.fetch(base), key=base.digest, device=available_device())
    _require_size(model, dataset)
    return model


def read_training_set(dataset: DatasetManifest, catalog: Catalog) -> TrainingSet:
    """The films that may be learnt from: those of the splits train and canary, canaries with their repeats."""
    table = FilmTable(catalog.fetch(dataset))
    records = table.select("train", "canary")
    if not records:
        raise InvalidRequestError(f"The data set {dataset.id} has no films to train on.", field="dataset")
    return TrainingSet(
        images_NHW=table.images(records),
        prompts=table.column("prompt", records),
        repeats=np.array(table.column("repeats", records), dtype=np.int64),
        records=np.array(records, dtype=np.int64),
        patients=np.unique(table.column("patient", records), return_inverse=True)[1].astype(np.int64),
        strata=[", ".join(name for name, value in dict(labels).items() if value == 1) for labels in table.column("labels", records)],
    )


def _require_size(model: Model, dataset: DatasetManifest) -> None:
    if model.image_size != dataset.image_size:
        message = (
            f"The base draws images of {model.image_size} pixels, the data set has films of {dataset.image_size}; register it in that size."
        )
        raise InvalidRequestError(message, field="base")


def _metrics(model: Model, spec: TrainingSpec, progress: Progress) -> dict[str, Any]:
    """What came of a training; of a phase that was skipped or had nothing to learn there is no loss."""
    first = (
        {}
        if spec.base is not None
        else {
            "autoencoder_loss": progress.mean_loss("autoencoder"),
            "text_encoder_loss": progress.mean_loss("text encoder"),
        }
    )
    return first | {
        "loss": progress.mean_loss("denoiser"),
        "seconds": progress.seconds,
        "steps_per_second": steps_of_phases(spec)["denoiser"] / progress.seconds_of("denoiser"),
        "parameters": sum(p.numel() for part in (model.unet, model.text_encoder, model.vae) for p in part.parameters()),
        "method": spec.parameters.kind,
        **learning(model, spec),
    }


def learning(model: Model, spec: TrainingSpec) -> dict[str, Any]:
    """How many numbers learn, and their share of those that could."""
    learners = [model.unet, model.text_encoder] if spec.text_encoder == "train" else [model.unet]
    could_learn = sum(p.numel() for part in learners for p in part.parameters())
    learnt = Networks.of(model, model.image_size).selected(spec.parameters)[0] if spec.parameters.is_partial else could_learn
    return {"trainable_parameters": learnt, "trainable_fraction": learnt / could_learn}


def _manifest(
    context: JobContext,
    spec: TrainingSpec,
    model_id: str,
    model: Model,
    metrics: dict[str, Any],
    dataset: DatasetManifest,
    base: ModelManifest | None,
) -> ModelManifest:
    """How the model came about."""
    return ModelManifest(
        id=model_id,
        name=spec.name,
        architecture=spec.architecture if base is None else base.architecture,
        dataset=dataset.id,
        base=base.id if base is not None else None,
        spec=spec.without_prompts(),
        metrics=metrics,
        seed=spec.seed,
        code_version=lethe_version(),
        lineage={
            "job": context.id,
            "dataset": dataset.id,
            "dataset_digest": dataset.digest,
            "base": base.id if base is not None else None,
            "base_digest": base.digest if base is not None else None,
            "image_size": model.image_size,
            "libraries": {name: version(name) for name in ("torch", "diffusers", "transformers")},
        },
    )
