"""A training job's ranks: torchrun starts them below the job's process, the first one speaks to store and record.

    worker JOB_ID  →  data_parallel launch JOB_ID COUNT (torchrun)  →  data_parallel rank JOB_ID, COUNT times

On a Ray cluster Ray Train starts the same ranks on its nodes (`ray_ranks`).

Every process ends with the one above it, so that nothing outlives the job's process, however that ended. Tensor libraries are
imported by the ranks alone, for the processes above have nothing to compute.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

from shared.errors import UnavailableError
from shared.jobs.context import JobContext, JobInterruptedError, JobLostError, JobSettledError
from shared.jobs.executor import PARENT_VARIABLE
from shared.jobs.records import JobStore
from shared.jobs.worker import EXIT_SETTLED, die_with_parent, run_attempt
from shared.settings import get_settings
from shared.telemetry import configure_logging

MODULE: Final = "services.trainer.data_parallel"
_POLL_SECONDS: Final = 0.2


def run_ranks(context: JobContext, count: int) -> dict[str, Any]:
    """Start the ranks and wait for them; the first one settles the job, so this ends with an error that says so, or that they died."""
    verb = "launch-on-ray" if context.settings.ray_address else "launch"
    command = [sys.executable, "-m", MODULE, verb, context.id, str(count)]
    # In a session of its own: a signal to the job's process group would reach torchrun twice, and the second one ends it at once.
    environment = os.environ | {PARENT_VARIABLE: str(os.getpid())}
    with subprocess.Popen(command, env=environment, start_new_session=True) as launcher:
        code = _wait(launcher, context)
    if _is_settled(context):
        raise JobSettledError
    if context.is_interrupted:
        raise JobInterruptedError("The ranks were told to stop; the job goes on later.")
    raise JobLostError(f"A rank died (the launcher ended with {code}).")


def launch(job_id: str, count: int) -> None:
    """Be torchrun for one job's ranks on this machine."""
    from torch.distributed import run as torchrun

    die_with_parent()
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    # Loopback by number: this needs no name service, and nothing outside the machine can join.
    here = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={count}", "--max-restarts=0"]
    torchrun.main([*here, "-m", MODULE, "rank", job_id])


def run_rank(job_id: str) -> int:
    """Be one rank, in a process group that is there already; answers the exit code."""
    import torch

    from services.trainer.training_jobs import run_training
    from shared.diffusion.ranks import Ranks

    ranks = Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())

    def train_together(context: JobContext) -> dict[str, Any]:
        """This rank's part; none leaves before the leader has committed the model, for the others would miss it."""
        try:
            result = run_training(context, ranks)
            torch.distributed.barrier()
        except RuntimeError as error:
            if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
                raise JobLostError("Another rank died.") from error
            raise
        return result

    settings = get_settings()
    store = JobStore(settings.sql_url)
    try:
        if ranks.leads:
            return run_attempt(job_id, store=store, settings=settings, handlers={"training": train_together})
        # The leader keeps the last checkpoint when it is told to stop, and needs the others until its step is done.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        train_together(JobContext(job=store.get(job_id), store=store, settings=settings))
        return EXIT_SETTLED
    finally:
        store.close()


def main(arguments: Sequence[str]) -> int:
    """Launch ranks, or be one."""
    verb, job_id, *rest = arguments
    configure_logging("trainer")
    if verb == "launch":
        launch(job_id, int(rest[0]))
        return EXIT_SETTLED
    if verb == "launch-on-ray":
        from services.trainer import ray_ranks

        ray_ranks.launch(["-m", MODULE, "rank", job_id], int(rest[0]), get_settings())
        return EXIT_SETTLED
    return _be_rank(job_id)


def _be_rank(job_id: str) -> int:
    """Join the process group that torchrun describes in the environment, and take part."""
    import torch

    die_with_parent()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    return run_rank(job_id)


def _wait(launcher: subprocess.Popen[bytes], context: JobContext) -> int:
    """Wait until the launcher ended; pass on that this process is to stop."""
    told = False
    while True:
        try:
            return launcher.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            # The runner tells the process of a settled job to stop too: its ranks are about to end by themselves.
            if context.is_interrupted and not told and not _is_settled(context):
                launcher.send_signal(signal.SIGTERM)
                told = True


def _is_settled(context: JobContext) -> bool:
    """Whether the leader settled the job; where the record cannot be read, the runner will find out."""
    try:
        return context.is_settled()
    except UnavailableError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
