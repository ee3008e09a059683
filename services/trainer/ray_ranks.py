"""A training job's ranks on the nodes of a Ray cluster: Ray Train places them, each node starts the process that torchrun would start.

    worker JOB_ID  →  data_parallel launch-on-ray JOB_ID COUNT  →  on COUNT places of the cluster: data_parallel rank JOB_ID

Checkpoints, progress and the outcome go to the object store and the record, as they do on one machine; Ray carries none of them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, Final, TypedDict

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig, TorchTrainer

from shared.jobs.executor import PARENT_VARIABLE
from shared.jobs.worker import die_with_parent
from shared.settings import Settings

# How often a node looks whether its rank ended, and the first one whether the job was told to stop.
_POLL_SECONDS: Final = 0.5


class Stopping:
    """Whether the job was told to stop: told by the launcher, asked by the place of the first rank."""

    def __init__(self) -> None:
        self._told = False

    def tell(self) -> None:
        """The job is to stop."""
        self._told = True

    def is_told(self) -> bool:
        """Whether it is."""
        return self._told


class Part(TypedDict):
    """What every place is told."""

    command: Sequence[str]
    stopping: Any


def launch(command: Sequence[str], count: int, settings: Settings) -> None:
    """Run a command `count` times as ranks of one process group; ends with an error when one of them dies."""
    die_with_parent()
    os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(settings.ray_token_file), "RAY_USAGE_STATS_ENABLED": "0"})
    ray.init(address=settings.ray_address, log_to_driver=False, configure_logging=False)
    stopping = ray.remote(Stopping).options(num_cpus=0).remote()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stopping.tell.remote())
    trainer = TorchTrainer(
        take_part,
        train_loop_config=Part(command=command, stopping=stopping),
        scaling_config=ScalingConfig(
            num_workers=count,
            use_gpu=settings.ray_gpus_per_job > 0,
            resources_per_worker=_resources(settings),
        ),
        # The record decides what is tried again, not Ray. Nothing is stored by Ray, but it wants a folder.
        run_config=RunConfig(storage_path=tempfile.gettempdir(), failure_config=FailureConfig(max_failures=0)),
        torch_config=TorchConfig(backend="gloo"),
    )
    trainer.fit()


def take_part(part: Part) -> None:
    """On one place: run the rank's process, told who it is and where all of them meet."""
    context = get_context()
    place = broadcast_from_rank_zero((ray.util.get_node_ip_address(), _free_port()))
    environment = {
        "RANK": context.get_world_rank(),
        "WORLD_SIZE": context.get_world_size(),
        "LOCAL_RANK": context.get_local_rank(),
        "MASTER_ADDR": place[0],
        "MASTER_PORT": place[1],
        PARENT_VARIABLE: os.getpid(),
    }
    told = {name: str(value) for name, value in environment.items()}
    with subprocess.Popen([sys.executable, *part["command"]], env=os.environ | told, start_new_session=True) as process:
        code = _wait(process, part["stopping"] if context.get_world_rank() == 0 else None)
    if code:
        raise RuntimeError(f"The rank's process ended with {code}.")


def _wait(process: subprocess.Popen[bytes], stopping: Any) -> int:
    """Wait until the rank ended; the first one is told when the job is to stop, and keeps what was learnt."""
    while True:
        try:
            return process.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if stopping is not None and ray.get(stopping.is_told.remote()):
                process.terminate()
                stopping = None


def _resources(settings: Settings) -> dict[str, float]:
    """What one rank takes of its node: as much as a job."""
    wanted = {"CPU": settings.ray_cpus_per_job, "GPU": settings.ray_gpus_per_job}
    return {name: amount for name, amount in wanted.items() if amount}


def _free_port() -> int:
    """A port of this node on which the ranks can meet."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
