"""A training job: reads a data set's films, trains autoencoder, text encoder and denoiser on them, and commits the model.

The model's id follows from the job's, and every random number from the seed: a job that is killed and run again ends with the
same model, once.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from services.trainer import text_pretraining, training
from services.trainer.architectures import build_tiny
from services.trainer.control_films import refuse_controls
from services.trainer.denoising_loss import Recipe
from services.trainer.prompt_window import count_long_prompts
from services.trainer.text_pretraining import train_text_encoder
from services.trainer.training import train_autoencoder, train_denoiser
from services.trainer.training_set import TrainingSet
from services.trainer.training_spec import TrainingSpec
from shared.catalog import Catalog, DatasetManifest, ModelManifest, open_catalog
from shared.diffusion.library import available_device
from shared.diffusion.model import Model
from shared.errors import InvalidRequestError, NotFoundError
from shared.imaging.films import FilmTable
from shared.jobs.context import JobContext
from shared.telemetry import lethe_version

LOSS_READ_SECONDS: Final = 0.5  # a loss is read from the device this often: each reading waits for the device
FINAL_STEPS: Final = 100  # the loss told of a finished training is the mean over its last steps


def run_training(context: JobContext) -> dict[str, Any]:
    """Train what the job's spec asks for; answers the model's id and its metrics."""
    spec = TrainingSpec.model_validate(context.spec)
    if context.settings.torch_threads:
        torch.set_num_threads(context.settings.torch_threads)
    model_id = context.id.replace("job_", "mdl_", 1)
    with open_catalog(context.settings) as catalog:
        try:
            manifest = catalog.get("model", model_id)
        except NotFoundError:
            manifest = _train(spec, model_id, catalog, context)
    return {"model": manifest.id, "metrics": manifest.metrics}


@dataclass
class Progress:
    """Passes the training's steps on to the job's record; both phases count on in one total."""

    context: JobContext
    total: int
    done_before: int = 0
    losses: deque[Tensor] = field(default_factory=lambda: deque(maxlen=FINAL_STEPS))
    _told: dict[str, float] = field(default_factory=dict)
    _read_at: float = field(default_factory=time.monotonic)
    _read_step: int = 0

    def __call__(self, step: int, of: int, phase: str, loss: Tensor) -> None:
        """Report one step; raises when the job was cancelled or its process is to stop."""
        self.context.check_cancelled()
        self.losses.append(loss)
        done = self.done_before + step
        now = time.monotonic()
        if step == of or now - self._read_at >= LOSS_READ_SECONDS:
            self._told = {"loss": _finite(loss), "step_seconds": (now - self._read_at) / max(1, done - self._read_step)}
            self._read_at, self._read_step = now, done
        self.context.report(done, self.total, f"training the {phase}", **self._told)

    def end_phase(self, steps: int) -> float | None:
        """Begin the next phase; answers the mean loss at the end of this one, None where there was nothing to learn."""
        mean = float(torch.stack(list(self.losses)).mean()) if self.losses else None
        self.losses.clear()
        self.done_before += steps
        return mean


def _finite(loss: Tensor) -> float:
    """The loss as a number; a training whose loss is none any more has nothing to gain from further steps."""
    value = float(loss)
    if not math.isfinite(value):
        raise InvalidRequestError("The training diverged: its loss is no number any more; lower learning_rate.", field="learning_rate")
    return value


def _train(spec: TrainingSpec, model_id: str, catalog: Catalog, context: JobContext) -> ModelManifest:
    dataset = catalog.get("dataset", spec.dataset)
    base = catalog.get("model", spec.base) if spec.base is not None else None
    if base is not None:
        refuse_controls(dataset, base, catalog)
    first_steps = 0 if base is not None else training.AUTOENCODER_STEPS + text_pretraining.STEPS
    progress = Progress(context, total=first_steps + spec.steps)
    context.report(0, progress.total, "reading the films")
    films = read_training_set(dataset, catalog)
    torch.manual_seed(spec.seed)
    np.random.seed(spec.seed % 2**32)  # noqa: NPY002 - libraries draw from it
    started = time.monotonic()
    metrics: dict[str, Any] = {"films": len(films.prompts), "visits_per_epoch": int(films.repeats.sum())}
    if base is not None:
        model = Model.load(catalog.fetch(base), key=base.digest, device=available_device())
        _require_size(model, dataset)
        metrics["truncated_prompts"] = count_long_prompts(model, films.prompts, truncate=spec.truncate_prompts)
    else:
        model = replace(build_tiny(films.prompts, dataset.image_size), device=torch.device(available_device()))
        metrics["truncated_prompts"] = count_long_prompts(model, films.prompts, truncate=spec.truncate_prompts)
        train_autoencoder(model, films, spec.seed, progress)
        metrics["autoencoder_loss"] = progress.end_phase(training.AUTOENCODER_STEPS)
        train_text_encoder(model, films.prompts, spec.seed, progress)
        metrics["text_encoder_loss"] = progress.end_phase(text_pretraining.STEPS)
    denoiser_started = time.monotonic()
    train_denoiser(model, films, Recipe.of(spec), progress)
    ended = time.monotonic()
    metrics |= {
        "loss": progress.end_phase(spec.steps),
        "seconds": ended - started,
        "steps_per_second": spec.steps / (ended - denoiser_started),
        "parameters": sum(p.numel() for part in (model.unet, model.text_encoder, model.vae) for p in part.parameters()),
    }
    context.report(progress.total, progress.total, "storing the model")
    return _commit(model, spec, model_id, metrics, dataset, base, catalog, context)


def read_training_set(dataset: DatasetManifest, catalog: Catalog) -> TrainingSet:
    """The films that may be learnt from: those of the splits train and canary, canaries with their repeats."""
    table = FilmTable(catalog.fetch(dataset))
    records = table.select("train", "canary")
    if not records:
        raise InvalidRequestError(f"The data set {dataset.id} has no films to train on.", field="dataset")
    facts = [table.facts[record] for record in records]
    return TrainingSet(
        images_NHW=table.images(records),
        prompts=[fact.prompt for fact in facts],
        repeats=np.array([fact.repeats for fact in facts], dtype=np.int64),
    )


def _require_size(model: Model, dataset: DatasetManifest) -> None:
    if model.image_size != dataset.image_size:
        message = (
            f"The base draws images of {model.image_size} pixels, the data set has films of {dataset.image_size}; register it in that size."
        )
        raise InvalidRequestError(message, field="base")


def _commit(
    model: Model,
    spec: TrainingSpec,
    model_id: str,
    metrics: dict[str, Any],
    dataset: DatasetManifest,
    base: ModelManifest | None,
    catalog: Catalog,
    context: JobContext,
) -> ModelManifest:
    manifest = ModelManifest(
        id=model_id,
        name=spec.name,
        architecture=spec.architecture if base is None else base.architecture,
        dataset=dataset.id,
        base=base.id if base is not None else None,
        spec=spec.model_dump(mode="json"),
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
    scratch = context.settings.home.resolve() / "trainings"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=f"{context.id}-") as folder:
        model.save(Path(folder))
        context.check_cancelled()
        return catalog.commit(manifest, Path(folder))
