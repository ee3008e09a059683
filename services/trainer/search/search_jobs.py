"""A search job: it has its trials run as jobs of their own, asks for the next one when one has ended, and tells what was found.

A trial's job has the same id at every attempt at the search, and its record holds its choice. Killed anywhere, the next attempt
finds the trials that are over and goes on with those that are not: same numbers, same choices, same figures.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Final

import torch

from services.trainer.control_films import refuse_controls
from services.trainer.parameters.attention_modules import attention_modules
from services.trainer.parameters.attention_names import in_order
from services.trainer.preflight import MemoryShortageError
from services.trainer.preparation import prepare
from services.trainer.prompt_window import count_long_prompts
from services.trainer.search.admission import of_training
from services.trainer.search.leftovers import Leftovers
from services.trainer.search.loop import SearchLoop
from services.trainer.search.measurement import measured
from services.trainer.search.reference_files import Baselines, ReferenceFiles
from services.trainer.search.rung_files import RungFiles
from services.trainer.search.search_files import SearchFiles
from services.trainer.search.search_spec import SearchSpec
from services.trainer.search.space import Space
from services.trainer.search.trial import Trial
from services.trainer.search.trial_records import read_trial, read_trials
from services.trainer.search.trial_spec import KIND, TrialSpec, trial_job_id
from services.trainer.training_inputs import modules_of
from services.trainer.training_jobs import open_model, read_training_set
from services.trainer.training_spec import FoundBy
from shared.catalog import Catalog, DatasetManifest, ModelManifest
from shared.catalog.manifests import NAME_LENGTH_MAX
from shared.diffusion.model import Model
from shared.errors import JobCancelledError, UnavailableError
from shared.jobs.context import JobContext, JobInterruptedError, JobLostError
from shared.jobs.executor import Executor
from shared.jobs.parts import Parts, opened_executor
from shared.jobs.records import Job, JobStore
from shared.jobs.search_metrics import PREFIX
from shared.memorization.rewards.names import Direction
from shared.memorization.rewards.registry import open_rewards
from shared.storage import ObjectStore, open_store
from shared.storage.patience import STORE_PATIENCE, PatientStore
from shared.telemetry import get_logger

WORKER: Final = "services.trainer.worker"

_LOG = get_logger(__name__)


def run_search(context: JobContext) -> dict[str, Any]:
    """Try what the job's spec asks for; answers what was found."""
    if context.settings.torch_threads:
        torch.set_num_threads(context.settings.torch_threads)
    with closing(open_store(context.settings)) as store, closing(JobStore(context.settings.sql_url)) as records:
        search = _Search(context, SearchSpec.model_validate(context.spec), store, records)
        try:
            return search.run()
        except (JobInterruptedError, JobLostError):
            raise  # the next attempt goes on with the trials as they are
        except UnavailableError as error:
            raise JobLostError("Store or database did not answer for too long; the search goes on with its trials later.") from error
        except Exception:
            search.abandon()
            raise
        finally:
            shutil.rmtree(search.scratch, ignore_errors=True)


class _Search:
    """One attempt at a search."""

    def __init__(self, context: JobContext, spec: SearchSpec, store: ObjectStore, records: JobStore) -> None:
        home = context.settings.home.resolve()
        self.context = context
        self.spec = spec
        self.records = records
        self.scratch = home / "searches" / context.id
        self.store = PatientStore(store, limit=STORE_PATIENCE, check=context.check_cancelled)
        self.catalog = Catalog(self.store, home / "cache")
        self.rungs = RungFiles(self.store, context.id)
        self.files = SearchFiles(self.store)
        self.leftovers = Leftovers(records, self.store, self.scratch)
        self.loop: SearchLoop | None = None
        self.baselines: Baselines | None = None

    def run(self) -> dict[str, Any]:
        """All trials that are not over yet; answers the summary."""
        self.leftovers.clear_away(self.context.ended_siblings())
        base = self.catalog.get("model", self.spec.training.base)
        directions = {reward.name: reward.direction for reward in open_rewards(self.spec.rewards)}
        space = Space.of(self.spec, self._modules(base))
        self.baselines = self._prepared(base)
        torch.cuda.empty_cache()  # trials are processes of their own, which need the room
        loop = self.loop = SearchLoop(space, self.spec, directions, read_trials(self.records, self.rungs, self.context.id))
        with opened_executor(self.context.settings, self.spec.parallel, worker_module=WORKER) as executor:
            _Trials(self, loop, directions, executor).run()
        return self.keep(loop)

    def summary(self, loop: SearchLoop) -> dict[str, Any]:
        """What was found so far."""
        measured_once = self.baselines
        return loop.summary() if measured_once is None else loop.summary(base=measured_once.base, floors=measured_once.floors)

    def keep(self, loop: SearchLoop) -> dict[str, Any]:
        """Have what was tried and found so far lie where people look; answers the summary."""
        summary = self.summary(loop)
        self.files.keep(self.context.id, loop.trials, summary)
        return summary

    def abandon(self) -> None:
        """Settle what still runs of a search that ends without a result; what was found stays readable."""
        try:
            self.leftovers.clear_away({self.context.id})
            if self.loop is not None:
                for trial in read_trials(self.records, self.rungs, self.context.id):
                    self.loop.settle(trial)
                self.keep(self.loop)
        except (UnavailableError, JobCancelledError) as error:  # the latter where the store is away and the wait for it ends
            _LOG.warning("trials of an ended search not cleared away", exc_info=error)

    def _prepared(self, base: ModelManifest) -> Baselines:
        """What trials are measured against and compared with, made unless that has happened.

        What every trial would be refused for, or could not be measured by, ends the search here.
        """
        files = ReferenceFiles(self.store, self.context.id, self.scratch)
        if (known := files.baselines()) is not None:
            return known
        dataset, total = self.catalog.get("dataset", self.spec.training.dataset), self.spec.trials
        self.context.report(0, total, "preparing what trials are measured against")
        model = self._opened(dataset, base)
        files.make(
            dataset,
            self.spec.evaluation,
            catalog=self.catalog,
            settings=self.context.settings,
            report=lambda _step, _total, message: self.context.advance(0, total, message),
        )
        self.context.report(0, total, "measuring the base")
        reference = files.read(dataset, catalog=self.catalog)
        try:
            figures = measured("base", model, reference, self.spec, self.context.check_cancelled)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise MemoryShortageError("Memory ran out while the base was measured; take a smaller base.", field="training.base") from error
        files.keep_baselines(found := Baselines(base=figures, floors=reference.floors))
        return found

    def _opened(self, dataset: DatasetManifest, base: ModelManifest) -> Model:
        """The base as every trial opens it, and with the films that each would learn from."""
        training = self.spec.training
        with of_training():
            refuse_controls(dataset, base, self.catalog)
            films = prepare(read_training_set(dataset, self.catalog), training).films
            model = open_model(training, films, dataset, base, self.catalog)
            count_long_prompts(model, films.prompts, truncate=training.truncate_prompts)
        return model

    def _modules(self, base: ModelManifest) -> list[str]:
        """The base's attention modules; where its config does not show them, those that it has."""
        shown = modules_of(base, self.catalog)
        if shown is not None:
            return shown
        return in_order(attention_modules(Model.load(self.catalog.fetch(base), key=base.digest).unet))


class _Trials:
    """The trials' jobs, from their records to their ends."""

    def __init__(self, search: _Search, loop: SearchLoop, directions: Mapping[str, Direction], executor: Executor) -> None:
        self._search = search
        self._context = search.context
        self._spec = search.spec
        self._loop = loop
        self._directions = dict(directions)
        self._begun = deque(trial for trial in loop.trials if trial.state == "running")  # by this attempt or by one before
        self._measured: dict[str, Any] = {}
        self._found = search.summary(loop)
        self._parts = Parts(search.context, search.records, executor, kind=KIND, at_once=search.spec.parallel, tell=self._tell)

    def run(self) -> None:
        """Until no trial is left; one whose process died runs again, until it died too often."""
        while True:
            with closing(self._parts.run(self._wanted())) as ended:
                for job in ended:
                    self._take(job)
            if not self._begun:
                return

    def _wanted(self) -> Iterator[str]:
        """The next trial to run: one that was begun, or a new one."""
        while (trial := self._begun.popleft() if self._begun else self._loop.next_trial()) is not None:
            job_id = trial_job_id(self._context.id, trial.number)
            job = self._parts.claim(job_id, self._told(trial))
            if job.is_settled:  # by an attempt that was not quite gone
                self._take(job)
            else:
                self._loop.settle(read_trial(job, self._search.rungs))  # which may have made it too, with a choice of its own
                self._keep()
                self._report([job])
                yield job_id

    def _told(self, trial: Trial) -> dict[str, Any]:
        """What a trial's job is told."""
        training = self._loop.space.training(trial.choice)
        ending = f", trial {trial.number}"
        told = {
            "name": training.name[: NAME_LENGTH_MAX - len(ending)] + ending,
            "found_by": FoundBy(search=self._context.id, trial=trial.number),
        }
        spec = TrialSpec(
            search=self._context.id,
            number=trial.number,
            choice=trial.choice,
            training=training.model_copy(update=told),
            spec=self._spec,
            directions=self._directions,
            torch_threads=max(1, torch.get_num_threads() // self._spec.parallel),
        )
        return spec.model_dump(mode="json")

    def _take(self, job: Job) -> None:
        """A trial is over, however it ended. Or its process died, and it runs again."""
        trial = read_trial(job, self._search.rungs)
        self._loop.settle(trial)
        if not job.is_settled:
            self._begun.append(trial)
            return
        if job.state != "succeeded":
            self._search.leftovers.remove_checkpoints(job.id)
        self._keep()
        self._context.note_safe()
        _LOG.info("trial over", trial=trial.number, state=trial.state, reason=trial.reason)
        self._report([])

    def _tell(self, running: Sequence[Job]) -> None:
        """How far the trials are; what one measured on its way is shown too."""
        measured = {job.id: job.reported["rung"] for job in running if "rung" in job.reported}
        if measured.items() - self._measured.items():
            self._measured |= measured
            for job in running:
                self._loop.settle(read_trial(job, self._search.rungs))
            self._keep()
        self._report(running)

    def _keep(self) -> None:
        self._found = self._search.keep(self._loop)

    def _report(self, running: Sequence[Job]) -> None:
        """Trials that are over, how many are in which state, and the hypervolume that they reached."""
        summary = self._found
        told: dict[str, float] = {f"{PREFIX}{state}": count for state, count in summary["trials"].items()}
        if summary["hypervolume"]:
            told["hypervolume"] = summary["hypervolume"][-1][1]
        for name, direction in summary["objectives"].items():
            values = [point["values"][name] for point in summary["pareto"]]
            if values:
                told[f"best_{name}"] = min(values) if direction == "minimize" else max(values)
        over = sum(count for state, count in summary["trials"].items() if state != "running")
        where = ", ".join(f"trial {_number(job)}: {job.message or 'begins'} ({job.step} of {job.total})" for job in running)
        self._context.report(over, self._spec.trials, where, **told)


def _number(job: Job) -> int:
    """A trial's number, as its job is told."""
    return int(job.spec["number"])
