"""The trainer's child process: `python -m services.trainer.worker JOB_ID` registers a data set, trains, searches or imports."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Any, Final

from services.trainer.data_parallel import run_ranks
from services.trainer.dataset_spec import DatasetSpec
from services.trainer.registration import register
from services.trainer.training_spec import TrainingSpec
from shared.catalog import Catalog
from shared.jobs.context import JobContext
from shared.jobs.worker import Handlers, run_worker
from shared.storage import open_store
from shared.storage.patience import STORE_PATIENCE, PatientStore


def run_registration(context: JobContext) -> dict[str, Any]:
    """Register the data set whose id the job has."""
    spec, settings = DatasetSpec.model_validate(context.spec), context.settings
    with closing(open_store(settings)) as store:
        patient = PatientStore(store, limit=STORE_PATIENCE, check=context.check_cancelled)
        catalog = Catalog(patient, settings.home.resolve() / "cache")
        manifest = register(spec, dataset_id=context.id, catalog=catalog, settings=settings, report=context.advance)
    return {"dataset": manifest.id}


def run_training(context: JobContext) -> dict[str, Any]:
    """Train a model; loads the tensor libraries, which a registration does without, or has ranks do so."""
    ranks = TrainingSpec.model_validate(context.spec).data_parallel.ranks
    if ranks > 1:
        return run_ranks(context, ranks)
    from services.trainer.training_jobs import run_training as train

    return train(context)


def run_shard(context: JobContext) -> dict[str, Any]:
    """Take a shard's part of an ensemble's round."""
    from services.trainer.ensemble.shard_jobs import run_shard as learn

    return learn(context)


def run_search(context: JobContext) -> dict[str, Any]:
    """Search which parameters to tune."""
    from services.trainer.search.search_jobs import run_search as search

    return search(context)


def run_trial(context: JobContext) -> dict[str, Any]:
    """Take one trial of a search."""
    from services.trainer.search.trial_jobs import run_trial as learn

    return learn(context)


def run_import(context: JobContext) -> dict[str, Any]:
    """Import a model; loads the tensor libraries too."""
    from services.trainer.model_import import run_import as import_folder

    return import_folder(context)


HANDLERS: Final[Handlers] = {
    "dataset": run_registration,
    "training": run_training,
    "shard": run_shard,
    "search": run_search,
    "trial": run_trial,
    "import": run_import,
}

if __name__ == "__main__":
    sys.exit(run_worker("trainer", HANDLERS))
