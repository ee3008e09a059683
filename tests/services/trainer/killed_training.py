"""A training whose process is killed again and again, for tests: `python -m tests.services.trainer.killed_training JOB_ID [STEP…]`.

This process loads the libraries once and forks a child for every attempt; a child kills itself with SIGKILL at its step, the
last one runs to the end. After each step a child notes the digest of everything that the next step depends on.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from typing import TYPE_CHECKING

from services.trainer import text_pretraining, training
from services.trainer.checkpointing import PhaseCheckpoints
from services.trainer.training_jobs import run_training
from shared.jobs.records import JobStore
from shared.jobs.worker import run_attempt
from shared.settings import get_settings

if TYPE_CHECKING:
    from shared.diffusion.optimisation import Run

AUTOENCODER_STEPS = 5
TEXT_STEPS = 4


def digest(run: Run) -> str:
    """SHA-256 of a run: weights, average and counter, optimiser, rate, deck, generators, global streams, step."""
    state = run.state()
    made = hashlib.sha256(json.dumps(state.facts, sort_keys=True).encode())
    for name, tensor in sorted(state.tensors.items()):
        made.update(name.encode())
        made.update(tensor.detach().contiguous().numpy().tobytes())
    return made.hexdigest()


def note_steps(job_id: str, dies_at: int | None) -> None:
    """Note every step's digest, and die at one of them before it can be kept."""
    keep = PhaseCheckpoints.after_step
    notes = get_settings().home / f"{job_id}.steps"

    def after_step(self: PhaseCheckpoints, run: Run) -> None:
        step = self._training._progress.done_before + run.step
        with notes.open("a") as file:
            file.write(f"{step} {self._phase.replace(' ', '-')} {digest(run)}\n")
        if step == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        keep(self, run)

    PhaseCheckpoints.after_step = after_step  # type: ignore[method-assign]


def attempt(job_id: str, dies_at: int | None) -> int:
    """Run one attempt in a child; answers its exit status as `waitpid` tells it."""
    child = os.fork()
    if child == 0:
        note_steps(job_id, dies_at)
        store = JobStore(get_settings().sql_url)
        os._exit(run_attempt(job_id, store=store, settings=get_settings(), handlers={"training": run_training}))
    return os.waitpid(child, 0)[1]


def main(job_id: str, steps: list[int]) -> None:
    """Kill an attempt at each of the steps, then let one finish."""
    training.AUTOENCODER_STEPS = AUTOENCODER_STEPS  # type: ignore[misc]
    text_pretraining.STEPS = TEXT_STEPS  # type: ignore[misc]
    for dies_at in [*steps, None]:
        store = JobStore(get_settings().sql_url)
        job = store.claim(kinds=["training"], owner="test")
        assert job is not None
        assert job.id == job_id
        store.close()
        status = attempt(job_id, dies_at)
        if dies_at is not None:
            assert os.WIFSIGNALED(status), status
            assert os.WTERMSIG(status) == signal.SIGKILL
            store = JobStore(get_settings().sql_url)
            store.release(job_id=job_id, attempt=job.attempt, lost=False)  # ten kills are no defect of the job
            store.close()


if __name__ == "__main__":
    main(sys.argv[1], [int(step) for step in sys.argv[2:]])
