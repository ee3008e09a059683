"""Trials read from records and rungs, in whatever state their jobs are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from services.trainer.search.rung_files import RungFiles
from services.trainer.search.search_spec import SearchSpec
from services.trainer.search.space import Choice
from services.trainer.search.trial import Trial
from services.trainer.search.trial_records import read_trials
from services.trainer.search.trial_spec import KIND, TrialSpec, trial_job_id
from services.trainer.training_spec import TrainingSpec
from shared.jobs.records import JobStore
from shared.settings import Settings
from shared.storage import DirectoryStore
from tests.services.trainer.search.test_rung_files import judged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEARCH = "job_1"


@pytest.fixture
def records(tmp_path: Path) -> Iterator[JobStore]:
    opened = JobStore.open(Settings(home=tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def rungs(tmp_path: Path) -> RungFiles:
    return RungFiles(DirectoryStore(tmp_path / "store"), SEARCH)


def told(number: int) -> dict[str, Any]:
    training = {"name": "a", "dataset": "ds_1", "base": "mdl_1", "steps": 10, "text_encoder": "frozen"}
    spec = TrialSpec(
        search=SEARCH,
        number=number,
        choice=Choice(kind="svdiff", mask=[1, 0], learning_rate=1e-4),
        training=TrainingSpec.model_validate(training),
        spec=SearchSpec.model_validate({"training": training, "space": "svdiff"}),
        directions={"memorization": "minimize", "fid": "minimize"},
        torch_threads=1,
    )
    return spec.model_dump(mode="json")


def begin(records: JobStore, number: int, *, search: str = SEARCH) -> str:
    job_id = trial_job_id(search, number)
    records.create(job_id=job_id, kind=KIND, spec=told(number))
    records.claim_this(job_id, owner="test")
    return job_id


def test_each_trial_is_what_its_record_and_its_rungs_say(records: JobStore, rungs: RungFiles) -> None:
    names = [begin(records, number) for number in range(5)]
    begin(records, 0, search="job_12")
    over = Trial(number=0, choice=Choice(kind="svdiff", mask=[1, 0], learning_rate=1e-4), state="pruned", steps=3, seconds=2.0)
    records.succeed(job_id=names[0], attempt=1, result=over.model_dump(mode="json"))
    rungs.keep(1, judged(3, 8.0))
    records.fail(job_id=names[1], attempt=1, problem={"title": "The request breaks the schema", "status": 422, "detail": "It diverged."})
    records.fail(job_id=names[2], attempt=1, problem={"title": "A defect in Lethe", "status": 500})
    records.report(job_id=names[3], attempt=1, step=7, total=10, message="", reported={})
    records.cancelled(job_id=names[3], attempt=1)
    found = read_trials(records, rungs, SEARCH)
    assert [(trial.number, trial.state, trial.reason, trial.steps) for trial in found] == [
        (0, "pruned", None, 3),
        (1, "failed", "It diverged.", 3),
        (2, "failed", "A defect in Lethe", 0),
        (3, "cancelled", "It was cancelled.", 7),
        (4, "running", None, 0),
    ]
    assert [rung.step for rung in found[1].rungs] == [3]
    assert (found[1].trainable_parameters, found[1].trainable_fraction, found[1].seconds) == (7, 0.25, 1.5)
    assert found[1].values is None


def test_trial_whose_process_died_is_one_that_may_go_on(records: JobStore, rungs: RungFiles) -> None:
    records.release(job_id=begin(records, 0), attempt=1, lost=True)
    (trial,) = read_trials(records, rungs, SEARCH)
    assert trial.state == "running"
