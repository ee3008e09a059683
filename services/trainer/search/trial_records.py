"""The trials of a search as their jobs' records and their rungs tell them."""

from __future__ import annotations

from services.trainer.search.rung_files import RungFiles
from services.trainer.search.trial import Trial
from services.trainer.search.trial_spec import KIND, TrialSpec, trial_jobs_of
from shared.jobs.records import Job, JobStore


def read_trials(records: JobStore, rungs: RungFiles, search: str) -> list[Trial]:
    """All trials that were begun, by number; those that are not over may go on."""
    return [read_trial(job, rungs) for job in records.beginning_with(trial_jobs_of(search), kind=KIND)]


def finished_trials(records: JobStore, search: str) -> list[Trial]:
    """Those that came to the end of their training and whose jobs are over: nothing takes that back."""
    over = [job for job in records.beginning_with(trial_jobs_of(search), kind=KIND) if job.state == "succeeded"]
    return [trial for trial in map(_outcome, over) if trial.state == "succeeded"]


def read_trial(job: Job, rungs: RungFiles) -> Trial:
    """What is known of one trial."""
    if job.state == "succeeded":
        return _outcome(job)
    spec = TrialSpec.model_validate(job.spec)
    measured = rungs.of(spec.number)
    trial = Trial(
        number=spec.number,
        choice=spec.choice,
        rungs=[judged.rung for judged in measured],
        steps=max([job.step, *(judged.rung.step for judged in measured)]),
        seconds=max((judged.seconds for judged in measured), default=0.0),
    )
    if measured:
        last = measured[-1]
        learning = {"trainable_parameters": last.trainable_parameters, "trainable_fraction": last.trainable_fraction}
        trial = trial.model_copy(update=learning)
    if job.state == "failed" and job.problem is not None:
        return trial.model_copy(update={"state": "failed", "reason": job.problem.get("detail") or job.problem["title"]})
    if job.state == "cancelled":
        return trial.model_copy(update={"state": "cancelled", "reason": "It was cancelled."})
    return trial


def _outcome(job: Job) -> Trial:
    return Trial.model_validate(job.result)
