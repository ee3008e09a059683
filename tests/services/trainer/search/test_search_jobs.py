"""A search's trials are jobs of their own, and whatever ends in between, the search is the same."""

from __future__ import annotations

import json
import os
import signal
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch

from services.trainer.app import JOB_KINDS
from services.trainer.denoising_loss import DenoisingLoss
from services.trainer.search import measurement, search_jobs
from services.trainer.search.reference_files import ReferenceFiles
from services.trainer.search.search_files import SearchFiles
from services.trainer.search.search_jobs import run_search
from services.trainer.search.space import Choice
from shared.catalog import new_id, open_catalog
from shared.errors import InvalidRequestError, JobCancelledError, UnavailableError
from shared.jobs import parts, worker
from shared.jobs.context import JobContext, JobInterruptedError, JobLostError
from shared.jobs.executor import EXIT_INTERRUPTED, Capacity
from shared.jobs.records import MAX_LOSSES, JobStore
from shared.storage import open_store
from tests.services.trainer.ensemble.shards_here import KilledError
from tests.services.trainer.search.trials_here import (
    Death,
    TrialsHere,
    after_commit,
    after_measuring,
    before_commit,
    number_of,
    search_spec,
    while_measuring,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.trainer.search.trial import Trial
    from shared.jobs.records import Job
    from tests.fixtures.judging import JudgingHome
    from tests.services.trainer.conftest import Jobs

    MakeContext = Callable[..., JobContext]

pytestmark = pytest.mark.anyio


def search_with(executor: TrialsHere, job: JobContext) -> dict[str, Any]:
    """Run a search whose trials this executor runs."""
    with mock.patch.object(parts, "open_executor", return_value=executor):
        return run_search(job)


def trials(home: JudgingHome, job_id: str) -> list[Trial]:
    return SearchFiles(open_store(home.settings)).trials(job_id, is_settled=False)


def outcome(home: JudgingHome, job_id: str) -> list[tuple[dict[str, Any], dict[str, str]]]:
    """Every trial without what a clock says, and the weights of its model."""
    told = []
    with open_catalog(home.settings) as catalog:
        for trial in trials(home, job_id):
            files = [] if trial.model is None else catalog.get("model", trial.model).files
            weights = {file.path: file.sha256 for file in files if file.path.endswith(".safetensors")}
            told.append((trial.model_dump(exclude={"seconds", "model"}), weights))
    return told


def left_behind(home: JudgingHome) -> list[str]:
    """What trials still keep to go on from."""
    kept = open_store(home.settings).list(prefix="checkpoints/")
    return [entry.key for entry in kept if not entry.key.endswith("/losses.json")]


@pytest.fixture(scope="module")
def whole(shared_judging_home: JudgingHome, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any], dict[str, str]]]:
    """What a search finds that nobody disturbed."""
    home = shared_judging_home.copy(tmp_path_factory.mktemp("undisturbed"))
    store = JobStore.open(home.settings)
    store.create(job_id=new_id("job"), kind="search", spec=search_spec(home))
    job = store.claim(kinds=["search"], owner="test")
    assert job is not None
    context = JobContext(job=job, store=store, settings=home.settings)
    reports: list[tuple[int, int]] = []
    executor = TrialsHere(home.settings)
    with mock.patch.object(context, "report", lambda step, total, *_said, **_values: reports.append((step, total))):
        result = search_with(executor, context)
    found = trials(home, job.id)
    assert executor.submitted == [f"{job.id}t{number:04d}" for number in range(4)]
    assert [trial.state for trial in found].count("pruned") >= 1
    assert {point["model"] for point in result["pareto"]} <= {trial.model for trial in found if trial.state == "succeeded"}
    assert all(trial.model == f"mdl_{job.id.removeprefix('job_')}t{trial.number:04d}" for trial in found if trial.model is not None)
    assert result["recommended"]["trial"] in [point["trial"] for point in result["pareto"]]
    assert [steps for steps, _ in result["hypervolume"]][-1] == sum(trial.steps for trial in found)
    assert SearchFiles(open_store(home.settings)).summary(job.id, is_settled=True) == json.loads(json.dumps(result))
    assert set(result["base"]["values"]) == {"memorization", "kid"}
    assert set(result["floors"]) >= {"kid"}
    assert reports[-1] == (4, 4)
    assert store.unsettled(kinds=["trial"]) == []
    assert left_behind(home) == []
    assert not list((home.settings.home / "trainings").iterdir())
    return outcome(home, job.id)


def test_trials_that_are_killed_anywhere_run_again_and_find_the_same(
    context: MakeContext, judging_home: JudgingHome, whole: list[Any]
) -> None:
    deaths: dict[int, list[Death]] = {
        0: [while_measuring(1), after_measuring, while_measuring(1), after_commit],
        1: [0, 3, before_commit],
        2: [after_measuring],
        3: [1, while_measuring(1), after_measuring],
    }
    assert whole[0][1]
    executor = TrialsHere(judging_home.settings, deaths)
    job = context("search", new_id("job"), search_spec(judging_home))
    search_with(executor, job)
    assert outcome(judging_home, job.id) == whole
    assert not executor.deaths[0]
    assert len(executor.submitted) > 4 + len(deaths[0])


def test_search_that_is_killed_again_and_again_goes_on_with_the_same_trials(
    context: MakeContext, judging_home: JudgingHome, whole: list[Any]
) -> None:
    job = context("search", new_id("job"), search_spec(judging_home))

    class Dies(TrialsHere):
        """The search's process ends before a trial begins, in the middle of one, or after one that it has not seen end."""

        def submit(self, job_id: str) -> int:
            when = places.pop(number_of(job_id), None)
            if when == "before":
                raise KilledError
            self.deaths = {number_of(job_id): [3]} if when == "with it" else {}
            slot = super().submit(job_id)
            if when is not None:
                raise KilledError
            return slot

    places = {0: "before", 1: "with it", 2: "after", 3: "with it"}
    submitted: list[str] = []
    for _ in range(4):
        executor = Dies(judging_home.settings)
        with pytest.raises(KilledError):
            search_with(executor, job)
        submitted += executor.submitted
    search_with(TrialsHere(judging_home.settings), job)
    assert outcome(judging_home, job.id) == whole
    records = JobStore(judging_home.settings.sql_url).beginning_with(f"{job.id}t", kind="trial")
    assert [(number_of(record.id), record.losses) for record in records] == [(number, 0) for number in range(4)]
    assert left_behind(judging_home) == []
    assert submitted.count(f"{job.id}t0002") == 1  # it had ended, though nobody saw it


def test_trials_that_fail_are_told_with_their_reasons_and_the_search_goes_on(
    context: MakeContext, judging_home: JudgingHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_LOG", mock.Mock())  # which would draw every tensor of a traceback

    def diverging() -> Any:
        def none_left(_loss: DenoisingLoss, _step: int) -> torch.Tensor:
            return torch.tensor(torch.nan, requires_grad=True)

        return mock.patch.object(DenoisingLoss, "__call__", none_left)

    def exhausted() -> Any:
        return mock.patch.object(measurement, "measure", side_effect=torch.OutOfMemoryError("CUDA out of memory"))

    def broken() -> Any:
        return mock.patch.object(measurement, "measure", side_effect=ZeroDivisionError("a defect"))

    few = search_spec(judging_home, trials=5, sampler="random", pruning=None, training={"steps": 1})
    job = context("search", new_id("job"), few)
    deaths: dict[int, list[Death]] = {0: [diverging], 1: [exhausted], 2: [0] * MAX_LOSSES, 3: [broken]}
    result = search_with(TrialsHere(judging_home.settings, deaths), job)
    found = trials(judging_home, job.id)
    assert [trial.state for trial in found] == ["failed"] * 4 + ["succeeded"]
    reasons = [trial.reason or "" for trial in found]
    for reason, said in zip(reasons, ("The training diverged", "ran out of memory", "ended 3 times", "A defect in Lethe", ""), strict=True):
        assert said in reason
    assert "a defect" not in reasons[3]
    assert [point["trial"] for point in result["pareto"]] == [4]
    assert left_behind(judging_home) == []
    assert result["trials"] == {"running": 0, "succeeded": 1, "pruned": 0, "failed": 4, "cancelled": 0}


def test_search_of_which_every_trial_fails_ends_with_nothing_found(context: MakeContext, judging_home: JudgingHome) -> None:
    job = context("search", new_id("job"), search_spec(judging_home, trials=1))
    result = search_with(TrialsHere(judging_home.settings, {0: [0] * MAX_LOSSES}), job)
    assert (result["pareto"], result["recommended"], result["trials"]["failed"]) == ([], None, 1)


class Waiting(TrialsHere):
    """Begins one of the trials and never ends it; calls back when it is under way."""

    def __init__(self, home: JudgingHome, number: int, begins: Callable[[], None]) -> None:
        super().__init__(home.settings)
        self.number = number
        self.begins = begins

    def submit(self, job_id: str) -> int:
        if number_of(job_id) != self.number:
            return super().submit(job_id)
        self.submitted.append(job_id)
        self._run(job_id, 2)  # which leaves a checkpoint of its first step
        self.begins()
        return 0

    def poll(self, job_id: str) -> int | None:
        return self._codes.pop(job_id, None)

    def capacity(self) -> Capacity:
        return Capacity(slots=1, busy=int(any(number_of(job_id) == self.number for job_id in self.submitted)))

    def cancel(self, job_id: str, *, grace: timedelta) -> None:  # noqa: ARG002 - as the protocol has it
        self._codes[job_id] = EXIT_INTERRUPTED


def test_cancellation_keeps_what_was_found_and_settles_what_ran(
    context: MakeContext, judging_home: JudgingHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "CANCEL_GRACE", timedelta(seconds=0.1))
    job = context("search", new_id("job"), search_spec(judging_home, pruning=None, training={"steps": 2}))
    with pytest.raises(JobCancelledError):
        search_with(Waiting(judging_home, 1, job._cancelled.set), job)
    first, second = trials(judging_home, job.id)
    assert (first.state, second.state, second.reason) == ("succeeded", "cancelled", "It was cancelled.")
    summary = SearchFiles(open_store(judging_home.settings)).summary(job.id, is_settled=False)
    assert summary is not None
    assert [point["trial"] for point in summary["pareto"]] == [0]
    assert summary["trials"]["cancelled"] == 1
    assert left_behind(judging_home) == []
    with open_catalog(judging_home.settings) as catalog:
        assert catalog.get("model", str(first.model)).metrics["trainable_fraction"] == first.trainable_fraction


def test_interruption_leaves_a_trial_for_the_next_attempt(context: MakeContext, judging_home: JudgingHome) -> None:
    job = context("search", new_id("job"), search_spec(judging_home, trials=2, pruning=None, training={"steps": 2}))
    with pytest.raises(JobInterruptedError):
        search_with(Waiting(judging_home, 1, job.interrupt), job)
    assert [trial.state for trial in trials(judging_home, job.id)] == ["succeeded", "running"]
    assert left_behind(judging_home)
    job._interrupted.clear()
    executor = TrialsHere(judging_home.settings)
    with mock.patch.object(search_jobs, "measured", side_effect=AssertionError("the base was measured")):
        search_with(executor, job)
    assert [number_of(job_id) for job_id in executor.submitted] == [1]


def test_store_that_is_away_for_long_leaves_trials_for_the_next_attempt(context: MakeContext, judging_home: JudgingHome) -> None:
    job = context("search", new_id("job"), search_spec(judging_home, trials=1, pruning=None, training={"steps": 1}))
    away = mock.patch.object(SearchFiles, "keep", side_effect=UnavailableError("The object store does not answer."))
    with away, pytest.raises(JobLostError):
        search_with(TrialsHere(judging_home.settings), job)
    with closing(JobStore(judging_home.settings.sql_url)) as records:
        (begun,) = records.beginning_with(f"{job.id}t", kind="trial")
    assert begun.state == "running"


@pytest.mark.parametrize(
    ("place", "what", "error", "field"),
    [
        (search_jobs, "refuse_controls", InvalidRequestError("controls", field="dataset"), "training.dataset"),
        (search_jobs, "count_long_prompts", InvalidRequestError("long", field="truncate_prompts"), "training.truncate_prompts"),
        (search_jobs, "open_rewards", InvalidRequestError("It cannot be opened."), None),
        (search_jobs, "measured", torch.OutOfMemoryError("CUDA out of memory"), "training.base"),
    ],
)
def test_what_every_trial_would_fail_by_ends_the_search_before_the_first(
    context: MakeContext, judging_home: JudgingHome, place: Any, what: str, error: Exception, field: str | None
) -> None:
    job = context("search", new_id("job"), search_spec(judging_home, trials=1))
    made = mock.patch.object(ReferenceFiles, "make", autospec=True, side_effect=ReferenceFiles.make)
    with made as make, mock.patch.object(place, what, side_effect=error), pytest.raises(InvalidRequestError) as refused:
        search_with(TrialsHere(judging_home.settings), job)
    assert (refused.value.field, trials(judging_home, job.id)) == (field, [])
    assert make.called == (what == "measured")


def test_trial_that_an_older_attempt_made_meanwhile_is_told_with_its_own_choice(context: MakeContext, judging_home: JudgingHome) -> None:
    job = context("search", new_id("job"), search_spec(judging_home, trials=1, pruning=None, training={"steps": 2}))
    seen: list[Trial] = []
    other = Choice(kind="attention", mask=[0, 1, 0, 0], learning_rate=1e-4)
    told = search_jobs._Trials._told

    def tells(self: Any, trial: Trial) -> dict[str, Any]:
        return told(self, trial.model_copy(update={"choice": other}))

    def begins() -> None:
        seen.extend(trials(judging_home, job.id))
        job.interrupt()

    with mock.patch.object(search_jobs._Trials, "_told", tells), pytest.raises(JobInterruptedError):
        search_with(Waiting(judging_home, 0, begins), job)
    assert [trial.choice for trial in seen] == [other]


def test_trials_belong_to_their_search_and_to_no_runner() -> None:
    assert "search" in JOB_KINDS
    assert "trial" not in JOB_KINDS


@pytest.mark.slow
async def test_processes_that_are_killed_and_cancelled_leave_what_was_found(
    jobs: Jobs, context: MakeContext, judging_home: JudgingHome
) -> None:
    """Real ones, two trials at once, after one that is over: the search's is killed, and they with it; later the rest is cancelled."""
    wishes = search_spec(judging_home, parallel=2, sampler="random", pruning=None, training={"steps": 150})
    begun = context("search", new_id("job"), wishes)
    with pytest.raises(JobInterruptedError):
        search_with(Waiting(judging_home, 1, begun.interrupt), begun)
    jobs.store.release(job_id=begun.id, attempt=1, lost=False)

    def trial_jobs_in(state: str) -> dict[int, Job]:
        found = jobs.store.beginning_with(f"{begun.id}t", kind="trial")
        return {number_of(trial.id): trial for trial in found if trial.state == state}

    def are_under_way(attempts: dict[int, int]) -> bool:
        running = trial_jobs_in("running")
        under_way = all(0 < trial.step < 140 for trial in running.values())
        return under_way and {number: trial.attempt for number, trial in running.items()} == attempts

    async with jobs.running():
        await jobs.until(begun.id, lambda _job: are_under_way({1: 2, 2: 1}))
        os.kill(jobs.process_of(begun.id), signal.SIGKILL)
        await jobs.until(begun.id, lambda _job: are_under_way({1: 3, 2: 2}))
        jobs.store.request_cancel(begun.id)
        job = await jobs.settled(begun.id)
    assert (job.state, job.attempt) == ("cancelled", 3)
    assert {number: trial.step < 150 for number, trial in trial_jobs_in("cancelled").items()} == {1: True, 2: True}
    assert [trial.attempt for trial in trial_jobs_in("succeeded").values()] == [1]
    assert [trial.state for trial in trials(judging_home, begun.id)] == ["succeeded", "cancelled", "cancelled"]
    assert left_behind(judging_home) == []
