"""The settings choose where jobs run."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.jobs.executor import Capacity
from shared.jobs.opening import open_executor
from shared.jobs.process_executor import ProcessExecutor
from shared.jobs.ray_executor import RayExecutor
from shared.settings import Settings

WORKER = "tests.shared.jobs.fake_worker"


def test_without_a_cluster_jobs_are_child_processes() -> None:
    executor = open_executor(Settings(job_slots=3), worker_module=WORKER)
    assert isinstance(executor, ProcessExecutor)
    assert executor.capacity() == Capacity(slots=3, busy=0)


def test_address_of_a_cluster_sends_jobs_there(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t" * 32, encoding="utf-8")
    settings = Settings(ray_address="ray-head:6379", ray_token_file=tmp_path / "token", ray_cpus_per_job=2, ray_gpus_per_job=1)
    executor = open_executor(settings, worker_module=WORKER)
    assert isinstance(executor, RayExecutor)
    assert executor._argv[-1] == (
        '{"address": "ray-head:6379", "worker_module": "tests.shared.jobs.fake_worker", "cpus_per_job": 2.0, "gpus_per_job": 1.0}'
    )


def test_cluster_without_a_token_is_not_used() -> None:
    with pytest.raises(ValueError, match="LETHE_RAY_TOKEN_FILE"):
        open_executor(Settings(ray_address="ray-head:6379"), worker_module=WORKER)
