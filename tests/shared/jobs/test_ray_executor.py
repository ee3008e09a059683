"""A Ray cluster as executor: refused without a token, away without harm, and a node that dies costs no job."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from shared.errors import UnavailableError
from shared.jobs import ray_executor
from shared.jobs.executor import EXIT_INTERRUPTED
from shared.jobs.ray_executor import RayExecutor
from shared.jobs.runner import JobRunner
from tests.fixtures.processes import ROOT
from tests.servers.processes import free_port

if TYPE_CHECKING:
    from tests.shared.jobs.conftest import Arena, RayHome

WORKER = "tests.shared.jobs.fake_worker"
Eventually = Callable[..., None]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("t" * 32, encoding="utf-8")
    return path


def test_no_token_file_is_refused() -> None:
    with pytest.raises(ValueError, match="LETHE_RAY_ADDRESS needs LETHE_RAY_TOKEN_FILE"):
        RayExecutor(address="127.0.0.1:6379", token_file=None, worker_module=WORKER)


def test_missing_or_empty_token_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="LETHE_RAY_TOKEN_FILE cannot be read"):
        RayExecutor(address="127.0.0.1:6379", token_file=tmp_path / "token", worker_module=WORKER)
    (tmp_path / "token").write_text(" \n", encoding="utf-8")
    with pytest.raises(ValueError, match="LETHE_RAY_TOKEN_FILE is empty"):
        RayExecutor(address="127.0.0.1:6379", token_file=tmp_path / "token", worker_module=WORKER)


@pytest.mark.parametrize("address", ["auto", "local", "ray://127.0.0.1:10001", "127.0.0.1", "http://127.0.0.1:8265", "a b:1"])
def test_address_that_is_no_head_node_is_refused(address: str, token_file: Path) -> None:
    with pytest.raises(ValueError, match="LETHE_RAY_ADDRESS must be host:port"):
        RayExecutor(address=address, token_file=token_file, worker_module=WORKER)


def test_ray_that_is_not_installed_is_named(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "find_spec", lambda _name: None)
    with pytest.raises(ValueError, match=r"install lethe\[ray\]"):
        RayExecutor(address="127.0.0.1:6379", token_file=token_file, worker_module=WORKER)


def test_bridge_gets_the_token_file_and_nothing_of_lethes_settings(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_DATABASE_URL", "postgresql://lethe:open-sesame@db/lethe")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    environment = RayExecutor(address="127.0.0.1:6379", token_file=token_file, worker_module=WORKER)._environment
    assert (environment["RAY_AUTH_MODE"], environment["RAY_AUTH_TOKEN_PATH"]) == ("token", str(token_file))
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert [name for name in environment if name.startswith("LETHE_")] == []


def test_head_that_is_away_is_unavailable_at_once_and_asked_again(
    token_file: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr(ray_executor, "_CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(ray_executor, "_RETRY_SECONDS", 0.1)
    executor = RayExecutor(address=f"127.0.0.1:{free_port()}", token_file=token_file, worker_module=WORKER)
    bridges = set()

    def is_refused() -> bool:
        started = time.monotonic()
        with pytest.raises(UnavailableError, match="does not answer"):
            executor.capacity()
        with pytest.raises(UnavailableError, match="does not answer"):
            executor.submit("job_1")
        assert time.monotonic() - started < 2
        if executor._bridge is not None:
            bridges.add(executor._bridge._process.pid)
        return len(bridges) > 1

    eventually(is_refused)
    assert executor.close(grace=timedelta(0)) == {}
    assert [pid for pid in bridges if psutil.pid_exists(pid)] == []


@pytest.mark.server
def test_wrong_token_is_refused_by_the_cluster(
    ray_home: RayHome, token_file: Path, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_NUM_REDIS_GET_RETRIES", "3")
    executor = RayExecutor(address=ray_home.cluster.address, token_file=token_file, worker_module=WORKER)

    def is_refused() -> bool:
        with pytest.raises(UnavailableError):
            executor.capacity()
        return executor._bridge is None

    with capture_logs() as lines:
        eventually(is_refused, 60)
    assert [(line["event"], line["reason"]) for line in lines] == [("ray cluster away", "ConnectionError")]
    executor.close(grace=timedelta(0))


@pytest.mark.server
def test_cluster_that_falls_silent_interrupts_its_jobs(
    ray_arena: Arena, eventually: Eventually, alive: Callable[[int], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = ray_arena.make()
    assert isinstance(executor, RayExecutor)
    job_id = ray_arena.start(executor, "steps")
    eventually(ray_arena.mark(job_id).exists)
    monkeypatch.setattr(ray_executor, "_SILENCE_SECONDS", 0.0)
    assert executor.poll(job_id) == EXIT_INTERRUPTED
    monkeypatch.undo()
    with pytest.raises(UnavailableError):
        executor.capacity()
    pid = int(ray_arena.mark(job_id).read_text(encoding="utf-8"))
    eventually(lambda: not alive(pid))


@pytest.mark.server
@pytest.mark.anyio
async def test_job_of_a_node_that_dies_goes_on_elsewhere_from_its_checkpoint(ray_home: RayHome, ray_arena: Arena) -> None:
    executor = ray_arena.make()
    job_id = "job_kept"
    ray_arena.store.create(job_id=job_id, kind="kept", spec={"steps": 200})
    async with JobRunner(store=ray_arena.store, executor=executor, kinds=["kept"]).serving():
        await until(lambda: ray_arena.store.get(job_id).step >= 50)
        assert REGISTRY.get_sample_value("lethe_executor_slots", {"executor": "ray", "state": "busy"}) is not None
        first = family(ray_arena.mark(job_id))
        ray_home.cluster.node_of(first).kill()
        await until(lambda: ray_arena.mark(job_id, "attempt-2").exists())
        second = family(ray_arena.mark(job_id, "attempt-2"))
        await until(lambda: ray_arena.store.get(job_id).is_settled)
    ray_home.cluster.add_node()
    job = ray_arena.store.get(job_id)
    assert (job.state, job.attempt, job.losses) == ("succeeded", 2, 1)
    assert job.result is not None
    assert job.result["from"] >= 40
    assert first & second == {os.getpid()} | {process.pid for process in psutil.Process().parents()}


@pytest.mark.server
@pytest.mark.anyio
async def test_service_that_is_killed_leaves_nothing_in_the_cluster(
    ray_home: RayHome, ray_arena: Arena, alive: Callable[[int], bool]
) -> None:
    job_id = "job_orphaned"
    ray_arena.store.create(job_id=job_id, kind="steps", spec={"steps": 100})
    environment = {
        "LETHE_HOME": str(ray_home.folder),
        "LETHE_DATABASE_URL": ray_home.database_url,
        "LETHE_RAY_ADDRESS": ray_home.cluster.address,
        "LETHE_RAY_TOKEN_FILE": str(ray_home.cluster.token_file),
        "PYTHONPATH": str(ROOT),
    }
    service = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.shared.jobs.fake_service", env=os.environ | environment)
    try:
        await until(lambda: ray_arena.store.get(job_id).step > 0)
    finally:
        service.kill()
        await service.wait()
    child = int(ray_arena.mark(job_id).read_text(encoding="utf-8"))
    await until(lambda: not alive(child))
    async with JobRunner(store=ray_arena.store, executor=ray_arena.make(), kinds=["steps"]).serving():
        await until(lambda: ray_arena.store.get(job_id).is_settled)
    job = ray_arena.store.get(job_id)
    assert (job.state, job.attempt, job.losses) == ("succeeded", 2, 1)


def family(mark: Path) -> set[int]:
    """The processes above the one that left a mark: its Ray worker, its node, this test."""
    return {process.pid for process in psutil.Process(int(mark.read_text(encoding="utf-8"))).parents()}


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.05)
