"""An executor that runs a search's trials in this process, one after another, and lets them die where a test says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any
from unittest import mock

from services.trainer import training_jobs
from services.trainer.search import measurement
from services.trainer.search.rung_files import RungFiles
from shared.catalog import Catalog
from shared.memorization.rewards.evaluation import measure
from tests.services.trainer.ensemble.shards_here import KilledError, ShardsHere

if TYPE_CHECKING:
    from shared.settings import Settings
    from tests.fixtures.judging import JudgingHome

Death = Callable[[], AbstractContextManager[Any]] | int
"""Before which step of its training a trial is killed, 0 for at once; or a patch that kills it elsewhere."""

EVALUATION = {"images_per_canary": 1, "control_prompts": 2, "sampling_steps": 1, "noises": 1}


def search_spec(home: JudgingHome, **changes: Any) -> dict[str, Any]:
    """A search of seconds: four trials of four steps, with one rung between."""
    training = {
        "name": "a", "dataset": home.stocked.dataset.id, "base": home.stocked.model.id, "steps": 4, "batch_size": 4, "checkpoint_every": 1,
        **changes.pop("training", {}),
    }  # fmt: skip
    return {
        "training": training, "space": "attention", "objectives": ["memorization", "kid"], "trials": 4, "evaluation": EVALUATION,
        "pruning": {"rungs": [0.5], "startup": 1, "keep": 0.34}, "learning_rate": {"low": 1e-4, "high": 1e-2, "points": 3}, **changes,
    }  # fmt: skip


class TrialsHere(ShardsHere):
    """`deaths` are those of each trial, by its number, one for each attempt at it."""

    def __init__(self, settings: Settings, deaths: Mapping[int, list[Death]] | None = None) -> None:
        super().__init__(settings)
        self.deaths = {number: list(each) for number, each in (deaths or {}).items()}

    def _run(self, job_id: str, dies_at: int | None) -> int:
        left = self.deaths.get(number_of(job_id), [])
        death = left.pop(0) if left else dies_at
        # Whether a tiny model fits is tested elsewhere, and takes longer to tell than to train it.
        with death() if callable(death) else nullcontext(), mock.patch.object(training_jobs, "require_memory"):
            return super()._run(job_id, None if callable(death) else death)


def number_of(job_id: str) -> int:
    """Of the trial that a job is."""
    return int(job_id[-4:])


def while_measuring(nth: int) -> Death:
    """Killed in the nth measurement of an attempt."""
    calls: list[int] = []

    def dies(*told: Any) -> Any:
        calls.append(1)
        if len(calls) == nth:
            raise KilledError
        return measure(*told)

    return lambda: mock.patch.object(measurement, "measure", dies)


def after_measuring() -> AbstractContextManager[Any]:
    """Killed when the first rung of an attempt is in the store, and nothing after it."""
    keep = RungFiles.keep

    def dies(self: RungFiles, *told: Any) -> None:
        keep(self, *told)
        raise KilledError

    return mock.patch.object(RungFiles, "keep", dies)


def before_commit() -> AbstractContextManager[Any]:
    """Killed with the model ready."""
    return mock.patch.object(Catalog, "commit", side_effect=KilledError)


def after_commit() -> AbstractContextManager[Any]:
    """Killed with the model in the catalog, and the trial not settled."""
    commit = Catalog.commit

    def dies(self: Catalog, *told: Any) -> None:
        commit(self, *told)
        raise KilledError

    return mock.patch.object(Catalog, "commit", dies)
