"""The job of one trial: a training as any other, measured at rungs, that ends early where it looks poor beside the others.

Everything that a rung says is in the store before the training goes on: killed anywhere, the trial ends with the same figures.
"""

from __future__ import annotations

from contextlib import closing
from functools import cached_property
from typing import Any

import torch

from services.trainer.preflight import MemoryShortageError
from services.trainer.search.measurement import measured
from services.trainer.search.reference_files import ReferenceFiles
from services.trainer.search.rules import Rules, figures
from services.trainer.search.rung_files import JudgedRung, RungFiles
from services.trainer.search.trial import Rung, Trial
from services.trainer.search.trial_records import finished_trials
from services.trainer.search.trial_spec import TrialSpec
from services.trainer.search.verdicts import goes_on_by, is_on_front
from services.trainer.training_jobs import Attempt, Look, learning
from services.trainer.training_progress import Progress
from shared.diffusion.model import Model
from shared.diffusion.optimisation import Run
from shared.jobs.context import JobContext
from shared.jobs.records import JobStore
from shared.jobs.worker import patiently
from shared.memorization.rewards.reference import Reference
from shared.memorization.statistics import Estimate
from shared.storage import ObjectStore, open_store


def run_trial(context: JobContext) -> dict[str, Any]:
    """Train and measure what the job's spec asks for, unless that has happened; answers the trial."""
    spec = TrialSpec.model_validate(context.spec)
    torch.set_num_threads(spec.torch_threads)
    with closing(open_store(context.settings)) as store:
        return _Trial(context, spec, store).run().model_dump(mode="json")


class _TrialOver(Exception):  # noqa: N818 - it is no error
    """A trial ends here, and no model is made of it."""


class _Trial:
    """One attempt at a trial."""

    def __init__(self, context: JobContext, spec: TrialSpec, store: ObjectStore) -> None:
        self.context = context
        self.spec = spec
        self.rules = Rules.of(spec.spec, spec.directions)
        self.attempt = Attempt(context, spec.training, store, open_look=self._open_look)
        self.files = RungFiles(self.attempt.patient_store, spec.search)
        self.judged = {judged.rung.step: judged for judged in self.files.of(spec.number)}
        self.learns: dict[str, Any] = {}

    def run(self) -> Trial:
        """All rungs that were not reached yet, and the model if it is to be kept."""
        goes_on = all(judged.goes_on for judged in self.judged.values())
        trial = self._outcome(self._trained() if goes_on else None)
        self.attempt.clear_away({self.context.id: "succeeded"})
        return trial

    def _trained(self) -> str | None:
        """The id of the model; None where the trial was over before."""
        try:
            with self.attempt.scratch_folder():
                return self.attempt.run().id
        except _TrialOver:
            return None
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise MemoryShortageError(
                "The trial ran out of memory while it learnt or was measured; take a smaller batch_size, or fewer trials at once.",
                field="training.batch_size",
            ) from error

    def _outcome(self, model: str | None) -> Trial:
        """What came of it."""
        last = self.judged[max(self.judged)]
        is_whole = last.rung.step == self.spec.training.steps
        return Trial(
            number=self.spec.number,
            choice=self.spec.choice,
            state="succeeded" if is_whole else "pruned",
            rungs=[self.judged[step].rung for step in sorted(self.judged)],
            values=last.rung.values if is_whole else None,
            reason=None if is_whole else f"It was behind the others after step {last.rung.step}.",
            model=model,
            trainable_parameters=last.trainable_parameters,
            trainable_fraction=last.trainable_fraction,
            steps=last.rung.step,
            seconds=last.seconds,
        )

    def _open_look(self, model: Model, progress: Progress) -> Look:
        """Stops at every rung; what learns is counted before the training makes room for it."""
        self.learns = learning(model, self.spec.training)
        rungs = set(self.spec.spec.rung_steps)

        def look(run: Run) -> None:
            if run.step not in rungs:
                return
            if run.step not in self.judged:
                self.judged[run.step] = self._judge(run, model, progress)
            if not self.judged[run.step].goes_on:
                raise _TrialOver

        return look

    def _judge(self, run: Run, model: Model, progress: Progress) -> JudgedRung:
        """Measure the averaged weights, hold them against the other trials, and keep what followed."""
        self.context.check_cancelled()
        progress.read_losses()  # a diverged training says so by its own name
        done = progress.done_before + run.step
        self.context.report(done, progress.total, f"measuring after step {run.step}")
        with run.averaged():
            values = measured("trial", model, self._reference, self.spec.spec, self.context.check_cancelled)
        judged = JudgedRung(
            rung=Rung(step=run.step, values=values),
            goes_on=self._goes_on(run.step, values),
            seconds=progress.seconds_so_far,
            **self.learns,
        )
        self.files.keep(self.spec.number, judged)
        self.context.report(done, progress.total, f"measured after step {run.step}", rung=run.step)
        return judged

    @cached_property
    def _reference(self) -> Reference:
        """What the search made for all trials; it is the same at every rung."""
        catalog = self.attempt.catalog
        dataset = catalog.get("dataset", self.spec.training.dataset)
        return ReferenceFiles(self.attempt.patient_store, self.spec.search, self.attempt.scratch).read(dataset, catalog=catalog)

    def _goes_on(self, step: int, values: dict[str, Estimate]) -> bool:
        """Whether the training goes on from a rung; after its last step, whether its model is on the front of those so far.

        There only trials that are over count: one that was measured may yet fail, and would leave the front without a model.
        """
        if step < self.spec.training.steps:
            return goes_on_by(self.rules, values, [rung.values for rung in self.files.of_others(self.spec.number, step)])
        with closing(JobStore(self.context.settings.sql_url)) as records:
            finished = patiently(lambda: finished_trials(records, self.spec.search))
        return is_on_front(self.rules, figures(values), [trial.figures() for trial in finished])
