"""A job store in a temporary home, and executors of fake workers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from shared.jobs.executor import ProcessExecutor
from shared.jobs.records import JobStore

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
