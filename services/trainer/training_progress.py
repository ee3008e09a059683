"""How far a training is: told to the job's record, kept as loss curves, and carried on by whoever goes on with it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from services.trainer.loss_curve import LossCurve
from shared.diffusion.checkpoints import State
from shared.errors import InvalidRequestError
from shared.jobs.context import JobContext

LOSS_READ_SECONDS: Final = 0.5  # losses are read from the device this often: each reading waits for the device
FINAL_STEPS: Final = 100  # the loss told of a finished phase is the mean over its last steps


@dataclass(frozen=True)
class _Kept:
    """The newest checkpoint in the store: of which step, since when, how long it took to send, how long the training waited for it."""

    step: int
    at: float
    upload_seconds: float
    stall_seconds: float


class Progress:
    """Passes the training's steps on to the job's record; all phases count on in one total."""

    def __init__(self, context: JobContext, *, total: int) -> None:
        self._context = context
        self.total = total
        self.done_before = 0
        self.curves: dict[str, LossCurve] = {}
        self.losses: deque[Tensor] = deque(maxlen=FINAL_STEPS)
        self._kept: _Kept | None = None
        self._means: dict[str, float | None] = {}
        self._seconds: dict[str, float] = {}
        self._phase = ""
        self._images_per_step = 0
        self._unread: list[Tensor] = []
        self._told: dict[str, float] = {}
        self._began = self._read_at = time.monotonic()
        self._read_step: int | None = None

    def begin_phase(self, phase: str, images_per_step: int = 0) -> None:
        """What is trained from now on."""
        self._phase = phase
        self._images_per_step = images_per_step
        self._began = self._read_at = time.monotonic()
        self._read_step = None

    def __call__(self, step: int, of: int, phase: str, loss: Tensor) -> None:
        """Report one step; raises when the loss is none any more."""
        self.losses.append(loss)
        self._unread.append(loss)
        done = self.done_before + step
        if self._read_step is None:  # the steps before the first one were taken elsewhere, or at another attempt
            self._read_step = done - 1
        now = time.monotonic()
        if step == of or now - self._read_at >= LOSS_READ_SECONDS:
            self.read_losses()
            step_seconds = (now - self._read_at) / max(1, done - self._read_step)
            self._told |= {"loss": float(loss), "step_seconds": step_seconds}
            if self._images_per_step:
                self._told["images_per_second"] = self._images_per_step / max(step_seconds, 1e-9)
            self._read_at, self._read_step = now, done
        if (kept := self._kept) is not None:
            self._told |= {
                "checkpoint_step": kept.step,
                "checkpoint_age_seconds": now - kept.at,
                "checkpoint_upload_seconds": kept.upload_seconds,
                "checkpoint_stall_seconds": kept.stall_seconds,
            }
        self._context.report(done, self.total, f"training the {phase}", **self._told)

    def add(self, losses: Sequence[float]) -> None:
        """Note the losses of steps that were taken elsewhere."""
        self.losses.extend(torch.tensor(losses))
        self.curves.setdefault(self._phase, LossCurve()).add(losses)

    def note_kept(self, step: int, *, upload_seconds: float, stall_seconds: float) -> None:
        """Say that a checkpoint is in the store; called on the thread that wrote it."""
        self._kept = _Kept(step, time.monotonic(), upload_seconds, stall_seconds)

    def end_phase(self, steps: int) -> None:
        """Close a phase, whether or not it found something to learn."""
        self.read_losses()
        self._means[self._phase] = float(torch.stack(list(self.losses)).mean()) if self.losses else None
        self._seconds[self._phase] = self.seconds_of(self._phase) + time.monotonic() - self._began
        self.losses.clear()
        self.done_before += steps

    def mean_loss(self, phase: str) -> float | None:
        """The mean loss at the end of a phase, None where there was nothing to learn."""
        return self._means[phase]

    def seconds_of(self, phase: str) -> float:
        """How long a phase took, all attempts at the job together."""
        return self._seconds.get(phase, 0.0)

    @property
    def seconds(self) -> float:
        """How long all phases took."""
        return sum(self._seconds.values())

    @property
    def seconds_so_far(self) -> float:
        """How long all phases took, the present one included."""
        return self.seconds + time.monotonic() - self._began

    def loss_curves(self) -> list[dict[str, Any]]:
        """The curve of every phase so far, as the job's losses.json has them."""
        return [{"phase": phase, "steps": curve.steps, "points": curve.points()} for phase, curve in self.curves.items()]

    def state(self) -> State:
        """Curves, times, and the losses that the final mean is made of."""
        self.read_losses()
        facts = {
            "done_before": self.done_before,
            "curves": {phase: curve.facts() for phase, curve in self.curves.items()},
            "means": dict(self._means),
            "seconds": self._seconds | {self._phase: self.seconds_of(self._phase) + time.monotonic() - self._began},
        }
        return State({"losses": torch.stack(list(self.losses))} if self.losses else {}, facts)

    def restore(self, state: State) -> None:
        """Go on counting."""
        self.done_before = int(state.facts["done_before"])
        self.curves = {phase: LossCurve(**facts) for phase, facts in state.facts["curves"].items()}
        self._means = dict(state.facts["means"])
        self._seconds = dict(state.facts["seconds"])
        self.losses.extend(state.tensors.get("losses", torch.empty(0)))

    def read_losses(self) -> None:
        """Read the losses since the last reading; a training whose loss is none any more has nothing to gain from further steps."""
        if not self._unread:
            return
        losses = torch.stack(self._unread).tolist()
        self._unread.clear()
        if not all(map(math.isfinite, losses)):
            raise InvalidRequestError("The training diverged: its loss is no number any more; lower learning_rate.", field="learning_rate")
        self.curves.setdefault(self._phase, LossCurve()).add(losses)
