"""The trainer's child process."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from services.trainer import worker
from services.trainer.worker import HANDLERS, run_registration, run_training
from shared.catalog import new_id, open_catalog
from shared.errors import JobCancelledError, NotFoundError, UnavailableError
from shared.jobs.worker import EXIT_USAGE
from shared.storage import DirectoryStore
from tests.fixtures.processes import ROOT
from tests.services.trainer.conftest import environment_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.jobs.context import JobContext
    from tests.fixtures.models import StockedHome

PHANTOM: dict[str, Any] = {"name": "a", "source": {"format": "phantom", "uri": None, "patients": 3}, "image_size": 16}


def test_worker_knows_the_kinds_that_the_service_runs_and_those_of_parts() -> None:
    from services.trainer.app import JOB_KINDS

    assert set(HANDLERS) == {*JOB_KINDS, "shard", "trial"}
    assert "shard" not in JOB_KINDS


def test_registration_commits_under_the_jobs_own_id_and_again_is_harmless(
    context: Callable[..., JobContext], stocked_home: StockedHome
) -> None:
    dataset_id = new_id("dataset")
    job = context("dataset", dataset_id, PHANTOM)
    assert run_registration(job) == {"dataset": dataset_id}
    assert run_registration(job) == {"dataset": dataset_id}
    with open_catalog(stocked_home.settings) as catalog:
        assert catalog.get("dataset", dataset_id).image_size == 16


def test_registration_outlasts_a_store_that_is_away(context: Callable[..., JobContext], monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([UnavailableError("away"), UnavailableError("away")])
    putting = DirectoryStore.put_file

    def put_file(store: DirectoryStore, **given: Any) -> Any:
        error = next(answers, None)
        if error is not None:
            raise error
        return putting(store, **given)

    monkeypatch.setattr(DirectoryStore, "put_file", put_file)
    dataset_id = new_id("dataset")
    assert run_registration(context("dataset", dataset_id, PHANTOM)) == {"dataset": dataset_id}


def test_cancelled_registration_stops_and_commits_nothing(
    context: Callable[..., JobContext], stocked_home: StockedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_id = new_id("dataset")
    job = context("dataset", dataset_id, PHANTOM)

    def cancelled() -> None:
        raise JobCancelledError

    monkeypatch.setattr(job, "check_cancelled", cancelled)
    with pytest.raises(JobCancelledError):
        run_registration(job)
    with open_catalog(stocked_home.settings) as catalog, pytest.raises(NotFoundError):
        catalog.get("dataset", dataset_id)


def test_training_goes_to_the_training_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    from services.trainer import training_jobs

    monkeypatch.setattr(training_jobs, "run_training", lambda context: {"context": context})
    job: Any = SimpleNamespace(spec={"name": "a", "dataset": "ds_1"})
    assert run_training(job) == {"context": job}


def test_training_of_several_ranks_goes_to_their_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "run_ranks", lambda context, count: {"context": context, "ranks": count})
    job: Any = SimpleNamespace(spec={"name": "a", "dataset": "ds_1", "data_parallel": {"ranks": 2}})
    assert run_training(job) == {"context": job, "ranks": 2}


def test_worker_without_a_job_says_how_to_use_it(stocked_home: StockedHome) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.trainer.worker"],
        cwd=ROOT,
        env=environment_of(stocked_home),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == EXIT_USAGE
    assert b"JOB_ID" in done.stderr
