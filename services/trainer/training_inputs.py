"""What a training must find before it is queued: its data set, its base, and in them what the spec asks for."""

from __future__ import annotations

import json

from services.trainer.datasets import committed_dataset
from services.trainer.parameters.attention_names import attention_names, chosen_names
from services.trainer.parameters.kinds import AnyParameters
from services.trainer.training_spec import TrainingSpec
from shared.catalog import Catalog, ModelManifest
from shared.errors import InvalidRequestError
from shared.jobs.records import JobStore


def require_inputs(spec: TrainingSpec, *, catalog: Catalog, jobs: JobStore) -> None:
    """Refuse a training whose data set or base does not exist, or has too little for it."""
    dataset = committed_dataset(catalog, jobs, spec.dataset)
    patients = sum(dataset.patients.get(split, 0) for split in ("train", "canary"))  # who is in both counts twice; the job sees
    if spec.ensemble is not None and spec.ensemble.shards > patients:
        message = f"{spec.ensemble.shards} shards need as many patients, and the data set has {patients} to train on."
        raise InvalidRequestError(message, field="ensemble.shards")
    if spec.base is not None:
        base = catalog.get("model", spec.base)
        _require_attention_modules(spec.parameters, base, catalog)


def modules_of(base: ModelManifest, catalog: Catalog) -> list[str] | None:
    """A base's attention modules in the order of a pass; None where its config does not show them."""
    return attention_names(json.loads(catalog.read_file(base, "unet/config.json")))


def _require_attention_modules(parameters: AnyParameters, base: ModelManifest, catalog: Catalog) -> None:
    """Refuse names and masks that do not fit the base; where its config does not show its attention modules, the job does."""
    if parameters.names_modules:
        known = modules_of(base, catalog)
        if known is not None:
            chosen_names(parameters, known)
