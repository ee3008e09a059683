"""A training job's rounds: it has its shards run as jobs of their own, averages what they keep, and keeps each round.

A shard's job has the same id at every attempt at the training, and is claimed, looked after and settled by the training's process:
no runner takes it. Killed anywhere, the next attempt finds the last round that was kept, the shards that are done with the next one,
and the checkpoints of those that are not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import zip_longest
from statistics import fmean
from typing import Any, Final

import torch

from services.trainer.checkpointing import TrainingCheckpoints
from services.trainer.ensemble.rounds import PHASE, Ensemble, ShardTask
from services.trainer.ensemble.rules import EnsembleRule
from services.trainer.ensemble.shard_spec import KIND, ShardSpec, shard_folder, shard_job_id, shard_jobs_of, shards_folder
from services.trainer.training_progress import Progress
from services.trainer.training_spec import TrainingSpec
from shared.diffusion.checkpoint_store import FOLDER, CheckpointStore
from shared.diffusion.checkpoints import State
from shared.errors import JobCancelledError, NotFoundError, UnavailableError
from shared.jobs.context import JobContext, JobInterruptedError, JobLostError
from shared.jobs.executor import EXIT_INTERRUPTED, Executor
from shared.jobs.failures import PartFailedError
from shared.jobs.leases import LEASE, new_owner
from shared.jobs.opening import open_executor
from shared.jobs.records import Job, JobStore
from shared.jobs.runner import STOP_GRACE
from shared.jobs.worker import patiently
from shared.settings import Settings
from shared.storage import ObjectStore, integrity_failure
from shared.telemetry import get_logger

WORKER: Final = "services.trainer.worker"
TELL_EVERY: Final = timedelta(seconds=0.5)  # how often the shards' records are read for the training's progress
CANCEL_GRACE: Final = timedelta(seconds=4)  # what shards get to see that they are cancelled, before they are told by signal
_LOOK_SECONDS: Final = 0.05

_LOG = get_logger(__name__)


@dataclass(frozen=True)
class Desk:
    """What a training job lends to its ensemble."""

    context: JobContext
    spec: TrainingSpec
    store: ObjectStore
    checkpoints: TrainingCheckpoints
    progress: Progress
    open_kept: Callable[[str], CheckpointStore]  # what a training or one of its shards kept, by folder


def train_in_rounds(desk: Desk, ensemble: Ensemble) -> None:
    """All rounds that are not done yet; the ensemble then holds the last average."""
    context, rule = desk.context, ensemble.rule
    with closing(JobStore(context.settings.sql_url)) as records:
        try:
            with opened_executor(context.settings, rule.parallel) as executor:
                _train(desk, ensemble, records, executor)
        except (JobInterruptedError, JobLostError):
            raise  # the next attempt goes on with the shards as they are
        except Exception:
            clear_away_shards(records, desk.store, context.id, forget=False)
            raise


@contextmanager
def opened_executor(settings: Settings, parallel: int) -> Iterator[Executor]:
    """Where a job's shards run: one after another in the job's own place, several at once where its service runs jobs."""
    told: dict[str, Any] = {"job_slots": parallel} | ({"ray_address": ""} if parallel == 1 else {})
    executor = open_executor(settings.model_copy(update=told), worker_module=WORKER)
    try:
        yield executor
    finally:
        executor.close(grace=STOP_GRACE)


def clear_away_shards(records: JobStore, store: ObjectStore, training: str, *, forget: bool) -> None:
    """Settle the shards of a training that ended, remove what they kept and, if asked, their records.

    What cannot be done now waits for another training.
    """
    try:
        for job in records.unsettled(kinds=[KIND]):
            if job.spec["training"] == training and records.request_cancel(job.id).state == "running":
                records.cancelled(job_id=job.id, attempt=job.attempt)
        while found := store.list(prefix=f"{FOLDER}/{shards_folder(training)}/"):
            for entry in found:
                store.delete(key=entry.key)
        if forget:
            records.forget_settled(kind=KIND, prefix=shard_jobs_of(training))
    except UnavailableError as error:
        _LOG.warning("shards of an ended training not cleared away", exc_info=error)


def _train(desk: Desk, ensemble: Ensemble, records: JobStore, executor: Executor) -> None:
    """Round after round, each kept before the next one begins with it."""
    kept = desk.open_kept(desk.context.id)
    is_begun = desk.checkpoints.restore(PHASE, ensemble)
    begins_with = desk.progress.done_before + ensemble.step if is_begun else desk.checkpoints.commit(PHASE, ensemble, kept)
    while not ensemble.is_over:
        tasks = ensemble.tasks()
        _Round(desk, records, executor, tasks, ensemble.rule, begins_with).run()
        losses: list[list[float]] = []
        ensemble.close_round(_read_states(desk, tasks, losses))
        desk.progress.add(_in_turn(losses))
        begins_with = desk.checkpoints.commit(PHASE, ensemble, kept)


def _read_states(desk: Desk, tasks: Sequence[ShardTask], losses: list[list[float]]) -> Iterator[State]:
    """The shards' runs at the end of a round, one after another; their losses are noted on the way."""
    for task in tasks:
        try:
            state = desk.open_kept(shard_folder(desk.context.id, task.shard)).read(task.ends).state
        except NotFoundError as error:
            raise integrity_failure(f"The state of shard {task.shard} after round {task.round}", kind="object") from error
        losses.append(state.part("losses").tensors.get("losses", torch.empty(0)).tolist())
        yield state.part("run")


def _in_turn(losses: Sequence[Sequence[float]]) -> list[float]:
    """The first loss of every shard, the second of every shard, and so on: neighbours on the curve are of about the same step.

    A batch that a filter skipped whole has no loss, and the shard's later ones come as many places earlier.
    """
    return [loss for turn in zip_longest(*losses) for loss in turn if loss is not None]


class _Round:
    """One round's jobs, from their records to their ends."""

    def __init__(
        self, desk: Desk, records: JobStore, executor: Executor, tasks: Sequence[ShardTask], rule: EnsembleRule, begins_with: int
    ) -> None:
        self._desk = desk
        self._context = desk.context
        self._records = records
        self._executor = executor
        self._rule = rule
        self._begins_with = begins_with
        self._tasks = {shard_job_id(desk.context.id, task.round, task.shard): task for task in tasks}
        self._steps = {job_id: task.begins for job_id, task in self._tasks.items()}
        self._owner = new_owner()
        self._due: dict[str, float] = {}
        self._safe: dict[str, Any] = {}

    def run(self) -> None:
        """Run every shard that is not done; one whose process died runs again, until it died too often."""
        while waiting := [job_id for job_id in self._tasks if self._claim(job_id)]:
            with closing(self._executor.map(waiting, at_once=self._rule.parallel, between=self._look_after)) as ended:
                for job_id, code in ended:
                    self._settle_exit(job_id, code)

    def _claim(self, job_id: str) -> bool:
        """Whether a shard is still to run; then its job is claimed, and taken back first from an attempt that is no more."""
        task = self._tasks[job_id]
        while True:  # until it is claimed or over: an attempt that is not quite gone may move it on in between
            job = patiently(lambda: self._record(job_id, task))
            self._require_no_failure(job)
            if job.state == "succeeded":
                self._steps[job_id] = task.ends
                return False
            if job.state == "running":
                patiently(partial(self._records.release, job_id=job_id, attempt=job.attempt, lost=False))
            elif patiently(lambda: self._records.claim_this(job_id, owner=self._owner)) is not None:
                return True

    def _record(self, job_id: str, task: ShardTask) -> Job:
        """A shard's record, made when it is missing."""
        try:
            return self._records.get(job_id)
        except NotFoundError:
            pass
        spec = ShardSpec(
            training=self._context.id,
            spec=self._desk.spec,
            round=task.round,
            shard=task.shard,
            begins_with=self._begins_with,
            torch_threads=torch.get_num_threads(),
        )
        return self._records.create(job_id=job_id, kind=KIND, spec=spec.model_dump(mode="json"), trace_id=self._context.trace_id)

    def _settle_exit(self, job_id: str, code: int) -> None:
        """After a process ended: nothing is left to do, or the job is put back; a loss is counted as the runner counts it."""
        job = patiently(lambda: self._records.get(job_id))
        if job.state == "running":
            lost = code != EXIT_INTERRUPTED
            patiently(lambda: self._records.release(job_id=job_id, attempt=job.attempt, lost=lost))
            job = patiently(lambda: self._records.get(job_id))  # an attempt that is not quite gone may have settled it
            _LOG.warning("shard ended without a result", job=job_id, exit_code=code, losses=job.losses, state=job.state)
        self._require_no_failure(job)
        if job.state == "succeeded":
            self._steps[job_id] = self._tasks[job_id].ends

    def _require_no_failure(self, job: Job) -> None:
        if job.state == "cancelled":
            raise JobCancelledError("A shard was cancelled.")
        if job.state == "failed" and job.problem is not None:
            task = self._tasks[job.id]
            raise PartFailedError(f"shard {task.shard} in round {task.round}", job.problem)

    def _look_after(self, running: Collection[str]) -> None:
        """Pass a cancellation on; renew leases and tell how far the shards are, now and then."""
        try:
            self._context.check_cancelled()
        except JobCancelledError:
            self._cancel(running)
            raise
        try:
            if self._is_due("leases", LEASE / 3):
                self._records.heartbeat(owner=self._owner, job_ids=list(self._tasks))
            if running and self._is_due("progress", TELL_EVERY):
                self._tell([self._records.get(job_id) for job_id in sorted(running)])
        except UnavailableError as error:
            _LOG.warning("job database away", exc_info=error)

    def _tell(self, running: Sequence[Job]) -> None:
        """Steps and speed of all shards together, and their mean loss; a checkpoint of a shard is the training's gain too."""
        safe = {job.id: job.reported["checkpoint_step"] for job in running if "checkpoint_step" in job.reported}
        if safe.items() - self._safe.items():
            self._context.note_safe()
        self._safe |= safe
        self._steps |= {job.id: max(job.step, self._tasks[job.id].begins) for job in running}
        told: dict[str, float] = {}
        for name, together in (("loss", fmean), ("step_seconds", fmean), ("images_per_second", sum)):
            values = [float(job.reported[name]) for job in running if job.reported.get(name) is not None]
            if values:
                told[name] = together(values)
        number = next(iter(self._tasks.values())).round
        message = f"round {number} of {self._rule.rounds}, {_named([self._tasks[job.id].shard for job in running])}"
        progress = self._desk.progress
        self._context.report(progress.done_before + sum(self._steps.values()), progress.total, message, **told)

    def _cancel(self, running: Collection[str]) -> None:
        """Have the shards stop by themselves, within a step, so that they keep nothing more."""
        deadline = time.monotonic() + CANCEL_GRACE.total_seconds()
        try:
            for job_id in self._tasks:
                self._records.request_cancel(job_id)
            while time.monotonic() < deadline and not all(self._records.get(job_id).is_settled for job_id in running):
                time.sleep(_LOOK_SECONDS)
        except UnavailableError as error:
            _LOG.warning("shards not told that they are cancelled", exc_info=error)

    def _is_due(self, what: str, every: timedelta) -> bool:
        now = time.monotonic()
        if now < self._due.get(what, now):
            return False
        self._due[what] = now + every.total_seconds()
        return True


def _named(shards: Sequence[int]) -> str:
    """Shards in words: one, a row of them, or several."""
    first, last = min(shards), max(shards)
    if first == last:
        return f"shard {first}"
    return f"shards {first}-{last}" if last - first + 1 == len(shards) else f"shards {', '.join(map(str, sorted(shards)))}"
