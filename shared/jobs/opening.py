"""Choosing where jobs run, as the settings say."""

from __future__ import annotations

from shared.jobs.executor import Executor
from shared.jobs.process_executor import ProcessExecutor
from shared.jobs.ray_executor import RayExecutor
from shared.settings import Settings


def open_executor(settings: Settings, *, worker_module: str) -> Executor:
    """Child processes of this service, or the nodes of a Ray cluster when LETHE_RAY_ADDRESS names one."""
    if not settings.ray_address:
        return ProcessExecutor(worker_module=worker_module, slots=settings.job_slots, torch_threads=settings.torch_threads)
    return RayExecutor(
        address=settings.ray_address,
        token_file=settings.ray_token_file,
        worker_module=worker_module,
        cpus_per_job=settings.ray_cpus_per_job,
        gpus_per_job=settings.ray_gpus_per_job,
    )
