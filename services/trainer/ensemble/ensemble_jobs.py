"""A training job's rounds: it has its shards run as jobs of their own, averages what they keep, and keeps each round.

A shard's job has the same id at every attempt at the training, and is claimed, looked after and settled by the training's process:
no runner takes it. Killed anywhere, the next attempt finds the last round that was kept, the shards that are done with the next one,
and the checkpoints of those that are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
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
from shared.jobs.executor import Executor
from shared.jobs.failures import PartFailedError
from shared.jobs.parts import Parts, opened_executor, settle_parts
from shared.jobs.records import Job, JobStore
from shared.storage import ObjectStore, integrity_failure
from shared.telemetry import get_logger

WORKER: Final = "services.trainer.worker"

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
            with opened_executor(context.settings, rule.parallel, worker_module=WORKER) as executor:
                _train(desk, ensemble, records, executor)
        except (JobInterruptedError, JobLostError):
            raise  # the next attempt goes on with the shards as they are
        except Exception:
            clear_away_shards(records, desk.store, {context.id: False})
            raise


def clear_away_shards(records: JobStore, store: ObjectStore, ended: Mapping[str, bool]) -> None:
    """Settle the shards of trainings that ended, and remove what they kept; where it is said, forget their records too.

    What cannot be done now waits for another training.
    """
    try:
        settle_parts(records, kind=KIND, whole="training", ended=ended)
        for training in ended:
            while found := store.list(prefix=f"{FOLDER}/{shards_folder(training)}/"):
                for entry in found:
                    store.delete(key=entry.key)
        records.forget_settled(kind=KIND, prefixes=[shard_jobs_of(training) for training, forget in ended.items() if forget])
    except UnavailableError as error:
        _LOG.warning("shards of ended trainings not cleared away", exc_info=error)


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
        self._rule = rule
        self._begins_with = begins_with
        self._tasks = {shard_job_id(desk.context.id, task.round, task.shard): task for task in tasks}
        self._steps = {job_id: task.begins for job_id, task in self._tasks.items()}
        self._parts = Parts(desk.context, records, executor, kind=KIND, at_once=rule.parallel, tell=self._tell)

    def run(self) -> None:
        """Run every shard that is not done; one whose process died runs again, until it died too often."""
        while waiting := [job_id for job_id, task in self._tasks.items() if not self._is_done(self._parts.claim(job_id, self._spec(task)))]:
            with closing(self._parts.run(waiting)) as ended:
                for job in ended:
                    self._is_done(job)

    def _spec(self, task: ShardTask) -> dict[str, Any]:
        """What a shard's job is told."""
        spec = ShardSpec(
            training=self._desk.context.id,
            spec=self._desk.spec,
            round=task.round,
            shard=task.shard,
            begins_with=self._begins_with,
            torch_threads=torch.get_num_threads(),
        )
        return spec.model_dump(mode="json")

    def _is_done(self, job: Job) -> bool:
        """Whether a shard took its steps; what ended otherwise ends the training."""
        task = self._tasks[job.id]
        if job.state == "cancelled":
            raise JobCancelledError("A shard was cancelled.")
        if job.state == "failed" and job.problem is not None:
            raise PartFailedError(f"shard {task.shard} in round {task.round}", job.problem)
        if job.state == "succeeded":
            self._steps[job.id] = task.ends
        return job.is_settled

    def _tell(self, running: Sequence[Job]) -> None:
        """Steps and speed of all shards together, and their mean loss."""
        self._steps |= {job.id: max(job.step, self._tasks[job.id].begins) for job in running}
        told: dict[str, float] = {}
        for name, together in (("loss", fmean), ("step_seconds", fmean), ("images_per_second", sum)):
            values = [float(job.reported[name]) for job in running if job.reported.get(name) is not None]
            if values:
                told[name] = together(values)
        number = next(iter(self._tasks.values())).round
        message = f"round {number} of {self._rule.rounds}, {_named([self._tasks[job.id].shard for job in running])}"
        progress = self._desk.progress
        self._desk.context.report(progress.done_before + sum(self._steps.values()), progress.total, message, **told)


def _named(shards: Sequence[int]) -> str:
    """Shards in words: one, a row of them, or several."""
    first, last = min(shards), max(shards)
    if first == last:
        return f"shard {first}"
    return f"shards {first}-{last}" if last - first + 1 == len(shards) else f"shards {', '.join(map(str, sorted(shards)))}"
