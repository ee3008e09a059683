"""A job store in a temporary home, and executors of fake workers."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.errors import UnavailableError
from shared.jobs.executor import Executor
from shared.jobs.process_executor import ProcessExecutor
from shared.jobs.ray_executor import RayExecutor
from shared.jobs.records import JobStore
from tests.servers.ray_cluster import RayCluster

ROOT = Path(__file__).parents[3]


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Where the records of a test lie; modules that hold for every database name several."""
    return f"sqlite:///{tmp_path / 'lethe.db'}"


@pytest.fixture
def child_environment(tmp_path: Path, database_url: str) -> dict[str, str]:
    """What children need to find the code, the home and the records."""
    return {"LETHE_HOME": str(tmp_path), "LETHE_DATABASE_URL": database_url, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def store(database_url: str) -> Iterator[JobStore]:
    """An empty store."""
    opened = JobStore(database_url)
    opened.prepare()
    yield opened
    opened.close()


@pytest.fixture
def executors(child_environment: dict[str, str]) -> Iterator[Callable[[int], ProcessExecutor]]:
    """Makes executors whose children are gone after the test."""
    made: list[ProcessExecutor] = []

    def make(slots: int = 1) -> ProcessExecutor:
        executor = ProcessExecutor(worker_module="tests.shared.jobs.fake_worker", slots=slots, environment=child_environment)
        made.append(executor)
        return executor

    yield make
    for executor in made:
        executor.close(grace=timedelta(0))


@dataclass(frozen=True)
class Arena:
    """Where executors are tried: the records and the home that their workers know, and what makes an executor of two slots."""

    store: JobStore
    home: Path
    make: Callable[[], Executor]
    lend: Callable[[], Executor]  # one that other tests use too
    queued: list[str] = field(default_factory=list)

    def queue(self, kind: str, **spec: Any) -> str:
        """Queue and claim a job, as a runner would; answers its id."""
        job_id = f"job_{secrets.token_hex(6)}"
        self.queued.append(job_id)
        self.store.create(job_id=job_id, kind=kind, spec=spec)
        assert self.store.claim(kinds=[kind], owner="test") is not None
        return job_id

    def start(self, executor: Executor, kind: str, **spec: Any) -> str:
        """Queue, claim and submit a job; answers its id."""
        job_id = self.queue(kind, **spec)
        executor.submit(job_id)
        return job_id

    def mark(self, job_id: str, name: str = "attempt-1") -> Path:
        """What a job left behind."""
        return self.home / "marks" / job_id / name


@pytest.fixture
def process_arena(store: JobStore, tmp_path: Path, executors: Callable[[int], ProcessExecutor]) -> Arena:
    """Child processes on a home of the test's own."""
    return Arena(store, tmp_path, lambda: executors(2), lambda: executors(2))


@dataclass(frozen=True)
class RayHome:
    """A Ray cluster of two nodes of one CPU each, whose workers know one home and one database."""

    cluster: RayCluster
    folder: Path
    database_url: str

    def executor(self) -> RayExecutor:
        """An executor that both nodes have joined."""
        made = RayExecutor(address=self.cluster.address, token_file=self.cluster.token_file, worker_module="tests.shared.jobs.fake_worker")
        deadline = time.monotonic() + 60
        while not self.has_both_nodes(made):
            assert time.monotonic() < deadline, "the cluster is not complete"
            time.sleep(0.05)
        return made

    @staticmethod
    def has_both_nodes(executor: RayExecutor) -> bool:
        """Whether both nodes are there."""
        try:
            return executor.capacity().slots == 2
        except UnavailableError:
            return False


@pytest.fixture(scope="session")
def ray_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHome]:
    """The cluster that tests share; a test that kills a node adds another."""
    folder = tmp_path_factory.mktemp("ray-home")
    database_url = f"sqlite:///{folder / 'lethe.db'}"
    environment = {"LETHE_HOME": str(folder), "LETHE_DATABASE_URL": database_url, "PYTHONPATH": str(ROOT)}
    cluster = RayCluster(environment)
    cluster.start(nodes=2)
    yield RayHome(cluster, folder, database_url)
    cluster.remove()


@pytest.fixture(scope="session")
def ray_executor(ray_home: RayHome) -> Iterator[RayExecutor]:
    """An executor that tests share, as each takes seconds to start."""
    made = ray_home.executor()
    yield made
    made.close(grace=timedelta(0))


@pytest.fixture
def ray_arena(ray_home: RayHome, request: pytest.FixtureRequest) -> Iterator[Arena]:
    """The nodes of the cluster, on the home that they share."""
    store = JobStore(ray_home.database_url)
    store.prepare()
    made: list[RayExecutor] = []

    def make() -> RayExecutor:
        made.append(ray_home.executor())
        return made[-1]

    arena = Arena(store, ray_home.folder, make, lambda: request.getfixturevalue("ray_executor"))
    yield arena
    for executor in made:
        executor.close(grace=timedelta(0))
    for job_id in arena.queued:
        # No runner settles what was interrupted, and that of the next test would take it back.
        store.fail(job_id=job_id, attempt=1, problem={})
    store.close()


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Waits until something is true, half a minute at most: the machine may be busy."""

    def wait(condition: Callable[[], object], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)

    return wait


@pytest.fixture
def alive() -> Callable[[int], bool]:
    """Whether a process runs; one that waits to be reaped does not."""

    def is_alive(pid: int) -> bool:
        try:
            os.kill(pid, 0)
            return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in {"Z", "X"}
        except (ProcessLookupError, FileNotFoundError):
            return False

    return is_alive
