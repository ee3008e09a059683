"""A trial is a training as any other: measuring it on the way changes nothing of it, and what a rung said is said again."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch

from services.trainer import training_jobs
from services.trainer.search import measurement
from services.trainer.search.reference_files import ReferenceFiles
from services.trainer.search.rung_files import JudgedRung, RungFiles
from services.trainer.search.search_spec import SearchSpec
from services.trainer.search.space import Choice, Space
from services.trainer.search.trial import Rung, Trial
from services.trainer.search.trial_jobs import run_trial
from services.trainer.search.trial_spec import KIND, TrialSpec, trial_job_id
from services.trainer.training_jobs import run_training
from shared.catalog import new_id, open_catalog
from shared.diffusion.optimisation import Run
from shared.errors import ConflictError, InvalidRequestError, JobCancelledError
from shared.jobs.records import JobStore
from shared.memorization.rewards.evaluation import measure
from shared.storage import open_store
from tests.services.trainer.search.trials_here import search_spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.jobs.context import JobContext
    from shared.memorization.statistics import Estimate
    from tests.fixtures.judging import JudgingHome

    MakeContext = Callable[..., JobContext]

SEARCH = "job_1"
MODULES = ["down_blocks.1.attentions.0", "mid_block.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.1"]


@pytest.fixture(autouse=True)
def fits() -> Any:
    """Whether a tiny model fits is tested elsewhere, and takes longer to tell than to train it."""
    with mock.patch.object(training_jobs, "require_memory"):
        yield


def trial_spec(home: JudgingHome, number: int = 0, **changes: Any) -> TrialSpec:
    spec = SearchSpec.model_validate(search_spec(home, **changes))
    choice = Choice(kind="attention", mask=[1, 0, 0, 1], learning_rate=1e-3)
    return TrialSpec(
        search=SEARCH,
        number=number,
        choice=choice,
        training=Space.of(spec, MODULES).training(choice),
        spec=spec,
        directions={"memorization": "minimize", "kid": "minimize"},
        torch_threads=1,
    )


@pytest.fixture
def begin(context: MakeContext, judging_home: JudgingHome) -> Callable[..., JobContext]:
    """Makes the context of a trial whose search has made what it is measured against."""
    settings = judging_home.settings

    def make(number: int = 0, **changes: Any) -> JobContext:
        spec = trial_spec(judging_home, number, **changes)
        with open_catalog(settings) as catalog, closing(open_store(settings)) as store:
            files = ReferenceFiles(store, SEARCH, judging_home.settings.home / "scratch")
            dataset = judging_home.stocked.dataset
            files.make(dataset, spec.spec.evaluation, catalog=catalog, settings=settings, report=lambda *_told: None)
        return context("trial", new_id("job"), spec.model_dump(mode="json"))

    return make


def rung_files(home: JudgingHome) -> RungFiles:
    return RungFiles(open_store(home.settings), SEARCH)


def judged(step: int, memorization: float, kid: float) -> JudgedRung:
    values: dict[str, Estimate] = {
        name: {"value": value, "low": value, "high": value, "n": 1} for name, value in (("memorization", memorization), ("kid", kid))
    }
    return JudgedRung(rung=Rung(step=step, values=values), goes_on=True, trainable_parameters=1, trainable_fraction=0.5, seconds=1.0)


def begin_other(home: JudgingHome, memorization: float, kid: float, *, succeeds: bool) -> None:
    """Trial 1, measured after its only step, and over."""
    spec, last = trial_spec(home, 1, pruning=None, training={"steps": 1}), judged(1, memorization, kid)
    rung_files(home).keep(1, last)
    with closing(JobStore.open(home.settings)) as records:
        job_id = records.create(job_id=trial_job_id(SEARCH, 1), kind=KIND, spec=spec.model_dump(mode="json")).id
        records.claim_this(job_id, owner="test")
        trial = Trial(number=1, choice=spec.choice, state="succeeded", rungs=[last.rung], values=last.rung.values, steps=1)
        if succeeds:
            records.succeed(job_id=job_id, attempt=1, result=trial.model_dump(mode="json"))
        else:
            records.fail(job_id=job_id, attempt=1, problem={"title": "A defect in Lethe", "status": 500})


def test_measured_training_ends_with_the_bits_of_one_that_nobody_measured(
    begin: Callable[..., JobContext], context: MakeContext, judging_home: JudgingHome
) -> None:
    trial = Trial.model_validate(run_trial(begin(pruning={"rungs": [0.25, 0.5, 0.75]})))
    assert [rung.step for rung in trial.rungs] == [1, 2, 3, 4]
    assert trial.values == trial.rungs[-1].values
    plain = context("training", new_id("job"), trial_spec(judging_home).training.model_dump(mode="json"))
    model = run_training(plain)["model"]
    with open_catalog(judging_home.settings) as catalog:
        files = [
            {file.path: file.sha256 for file in catalog.get("model", name).files if file.path.endswith(".safetensors")}
            for name in (model, str(trial.model))
        ]
    assert files[0] == files[1]
    metrics = catalog.get("model", model).metrics
    assert (trial.trainable_parameters, trial.trainable_fraction) == (metrics["trainable_parameters"], metrics["trainable_fraction"])


def test_trial_behind_the_others_ends_at_its_rung_and_says_the_same_again(
    begin: Callable[..., JobContext], judging_home: JudgingHome
) -> None:
    files = rung_files(judging_home)
    for other in (1, 2):
        files.keep(other, judged(2, -10.0, -10.0))
    job = begin()
    first = Trial.model_validate(run_trial(job))
    assert (first.state, first.steps, first.model, first.values) == ("pruned", 2, None, None)
    assert first.reason == "It was behind the others after step 2."
    with (
        mock.patch.object(measurement, "measure", side_effect=AssertionError),
        mock.patch.object(training_jobs.Attempt, "run", AssertionError),
    ):
        assert Trial.model_validate(run_trial(job)) == first


@pytest.mark.parametrize(("others", "is_kept"), [((-10.0, -10.0), False), ((-10.0, 10.0), True)], ids=["dominated", "on the front"])
def test_model_is_kept_of_a_trial_on_the_front_of_those_so_far(
    begin: Callable[..., JobContext], judging_home: JudgingHome, others: tuple[float, float], is_kept: bool
) -> None:
    begin_other(judging_home, *others, succeeds=True)
    trial = Trial.model_validate(run_trial(begin(pruning=None, training={"steps": 1})))
    assert (trial.state, trial.model is not None) == ("succeeded", is_kept)


def test_better_trial_that_fails_after_it_was_measured_costs_no_other_its_model(
    begin: Callable[..., JobContext], judging_home: JudgingHome
) -> None:
    begin_other(judging_home, -10.0, -10.0, succeeds=False)
    trial = Trial.model_validate(run_trial(begin(pruning=None, training={"steps": 1})))
    assert (trial.state, trial.model is not None) == ("succeeded", True)


def test_trial_that_breaks_a_bound_keeps_no_model(begin: Callable[..., JobContext]) -> None:
    bound = [{"reward": "noise_magnitude", "at_most": -1.0}]
    trial = Trial.model_validate(run_trial(begin(pruning=None, constraints=bound, training={"steps": 1})))
    assert (trial.state, trial.model) == ("succeeded", None)
    assert set(trial.values or {}) == {"memorization", "kid", "noise_magnitude"}


def test_diverged_weights_are_told_as_such_although_the_loss_is_a_number(begin: Callable[..., JobContext]) -> None:
    advance = Run.advance

    def breaks(self: Run) -> Any:
        loss = advance(self)
        assert self.average is not None
        self.average.average[0].fill_(torch.nan)
        return loss

    with mock.patch.object(Run, "advance", breaks), pytest.raises(ConflictError, match="its training diverged"):
        run_trial(begin(pruning=None, training={"steps": 1}))


def test_figure_that_is_no_number_fails_the_trial_by_its_name(begin: Callable[..., JobContext]) -> None:
    nothing = {"memorization": {"value": 0.5, "low": 0.1, "high": torch.inf, "n": 2}}
    with mock.patch.object(measurement, "measure", return_value=nothing), pytest.raises(ConflictError, match="memorization is no finite"):
        run_trial(begin(pruning=None, training={"steps": 1}))


def test_trial_that_runs_out_of_memory_says_what_to_change(begin: Callable[..., JobContext]) -> None:
    gone = mock.patch.object(measurement, "measure", side_effect=torch.OutOfMemoryError)
    with gone, pytest.raises(InvalidRequestError, match="smaller batch_size") as caught:
        run_trial(begin(pruning=None, training={"steps": 1}))
    assert caught.value.field == "training.batch_size"


def test_measurement_stops_within_one_pass_of_a_cancellation(begin: Callable[..., JobContext], judging_home: JudgingHome) -> None:
    job, passes = begin(pruning=None, training={"steps": 1}), []

    def cancel(*_told: Any) -> None:
        passes.append(1)
        job._cancelled.set()

    def begins(model: Any, *told: Any) -> Any:
        model.unet.register_forward_hook(cancel)
        return measure(model, *told)

    with mock.patch.object(measurement, "measure", begins), pytest.raises(JobCancelledError):
        run_trial(job)
    assert passes == [1]
    assert rung_files(judging_home).of(0) == []
