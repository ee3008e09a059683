"""When a training is kept, what of it, and where the next attempt goes on.

A checkpoint holds the run under way, the parts that earlier phases made, and the progress. It is copied between two steps and
sent on a thread. Nothing is scaled in training (bf16 is the only reduced precision), so there is no gradient scaler to keep.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from services.trainer.training_progress import Progress
from services.trainer.uploads import Uploads
from shared.diffusion.checkpoint_store import FOLDER, Checkpoint, CheckpointStore
from shared.diffusion.checkpoints import Resumable, State
from shared.diffusion.optimisation import Run
from shared.diffusion.ranks import ALONE, Ranks
from shared.jobs.context import JobContext, JobInterruptedError, JobTakenOverError
from shared.storage import ObjectStore
from shared.telemetry import get_logger

PHASES: Final = ("autoencoder", "text encoder", "denoiser")
CURVES_SECONDS: Final = 10.0  # how old the stored loss curves of a running training may be
# After SIGTERM a process lives for 8 s (the runner's grace); the last checkpoint gets most of them.
LAST_UPLOAD_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 0.2  # how often a training that waits for its store looks whether it is to stop

_LOG = get_logger(__name__)


@dataclass(frozen=True)
class Cadence:
    """How often a training is kept: after so many seconds, and after so many steps if given."""

    seconds: float
    steps: int | None = None

    def is_due(self, *, step: int, since: float) -> bool:
        """Whether a run at this step, last kept so many seconds ago, is to be kept now."""
        return since >= self.seconds or (self.steps is not None and step % self.steps == 0)


class Stepping(Resumable, Protocol):
    """Something that goes on step by step: a run, or several that are averaged."""

    @property
    def step(self) -> int:
        """Steps so far."""
        ...


class TrainingCheckpoints:
    """Keeps the phases of one training, and tells its next attempt where to go on; its curves lie in `folder`, by default the job's."""

    def __init__(
        self,
        context: JobContext,
        *,
        store: ObjectStore,
        checkpoints: CheckpointStore,
        uploads: Uploads,
        cadence: Cadence,
        progress: Progress,
        ranks: Ranks = ALONE,
        folder: str | None = None,
    ) -> None:
        self._context = context
        self._folder = context.id if folder is None else folder
        self._store = store
        self._checkpoints = checkpoints
        self._uploads = uploads
        self._cadence = cadence
        self._progress = progress
        self._ranks = ranks
        self._companions: dict[str, Resumable] = {}
        self._found: Checkpoint | None = None
        self._kept_at = self._curves_at = time.monotonic()

    def open(self, found: Checkpoint | None, companions: Mapping[str, Resumable]) -> None:
        """Go on from what the last attempt left, if anything; `companions` are kept beside every run."""
        self._companions = {"progress": self._progress, **companions}
        self._found = found
        if found is None:
            return
        for name, companion in self._companions.items():
            companion.restore(found.state.part(name))
        self._context.report(found.step, self._progress.total, f"going on from step {found.step}", resumed_step=found.step)
        _LOG.info("training goes on from a checkpoint", step=found.step, phase=found.state.facts["phase"])

    def is_past(self, phase: str) -> bool:
        """Whether an earlier attempt finished this phase."""
        return self._found is not None and PHASES.index(self._found.state.facts["phase"]) > PHASES.index(phase)

    def of_phase(self, phase: str, look: Callable[[Run], None] = lambda _run: None) -> PhaseCheckpoints:
        """What the loop asks in one phase; `look` sees the run after each step, before it is kept."""
        return PhaseCheckpoints(self, phase, look)

    def restore(self, phase: str, run: Stepping) -> bool:
        """Bring a phase's run to where it was kept; whether it was."""
        kept = self._found is not None and self._found.state.facts["phase"] == phase
        if self._found is not None and kept:
            run.restore(self._found.state.part("run"))
        self._found = None
        self._kept_at = time.monotonic()
        return kept

    def after_step(self, phase: str, run: Run) -> None:
        """Keep the run when that is due, and before the process is stopped; raises when it is, or when the job was cancelled."""
        if not self._ranks.leads:
            return
        try:
            self._context.check_cancelled()
        except JobTakenOverError:
            raise
        except JobInterruptedError:
            self._keep(phase, run)
            if not self._uploads.wait(LAST_UPLOAD_SECONDS):
                _LOG.warning("the last checkpoint was not written in time; the job goes on from the one before")
            raise
        now = time.monotonic()
        if self._cadence.is_due(step=run.step, since=now - self._kept_at):
            self._keep(phase, run)
        elif now - self._curves_at >= CURVES_SECONDS:
            self.offer_curves()

    def offer_curves(self) -> None:
        """Have the loss curves written as they are now."""
        self._curves_at = time.monotonic()
        data = json.dumps({"curves": self._progress.loss_curves()}, allow_nan=False).encode()
        self._uploads.offer("losses", lambda: _put(self._store, f"{FOLDER}/{self._folder}/losses.json", data))

    def commit(self, phase: str, run: Stepping, checkpoints: CheckpointStore) -> int:
        """Keep the run before anything goes on that builds on it, in a store that is waited for; answers the training's step."""
        while not self._uploads.wait(LOOK_SECONDS):  # one writer at a time
            self._context.check_cancelled()
        step, state = self._copy(phase, run)
        checkpoints.write(step, state)
        self._context.note_safe()
        self._kept_at = time.monotonic()
        self.offer_curves()
        return step

    def _keep(self, phase: str, run: Run) -> None:
        """Copy everything, and have it sent."""
        began = time.monotonic()
        step, state = self._copy(phase, run)
        self._kept_at = time.monotonic()
        self._uploads.offer("checkpoint", partial(self._write, step, state, stall_seconds=self._kept_at - began))
        self.offer_curves()

    def _copy(self, phase: str, run: Stepping) -> tuple[int, State]:
        """The training's step, and everything that it goes on from."""
        parts = {"run": run.state()} | {name: companion.state() for name, companion in self._companions.items()}
        joined = State.joined(parts)
        return self._progress.done_before + run.step, State(joined.tensors, joined.facts | {"phase": phase}).copied()

    def _write(self, step: int, state: State, *, stall_seconds: float) -> None:
        """Send a checkpoint; on the uploads' thread."""
        began = time.monotonic()
        self._checkpoints.write(step, state)
        self._progress.note_kept(step, upload_seconds=time.monotonic() - began, stall_seconds=stall_seconds)
        self._context.note_safe()
        _LOG.info("checkpoint written", step=step)


class PhaseCheckpoints:
    """The Checkpoints of one phase's run."""

    def __init__(self, training: TrainingCheckpoints, phase: str, look: Callable[[Run], None]) -> None:
        self._training = training
        self._phase = phase
        self._look = look

    def resume(self, run: Run) -> None:
        """Restore what was kept of this run, if anything was."""
        self._training.restore(self._phase, run)

    def after_step(self, run: Run) -> None:
        """Look, and keep the run now and then."""
        self._look(run)
        self._training.after_step(self._phase, run)


def _put(store: ObjectStore, key: str, data: bytes) -> None:
    store.put(key=key, data=data)
