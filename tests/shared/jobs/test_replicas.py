"""Several services on one PostgreSQL: no job runs twice, whoever dies, and what was acknowledged stays."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shared.errors import UnavailableError
from shared.jobs.records import JobStore

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.server
Eventually = Callable[..., None]
JOBS = [f"job_{number:02}" for number in range(14)]
LEASE_SECONDS = 3


@pytest.fixture
def database_url(mortal_postgres: PostgresServer) -> str:
    return mortal_postgres.new_database()


@contextmanager
def service(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs jobs, two at a time."""
    argv = [sys.executable, "-m", "tests.shared.jobs.fake_service", str(LEASE_SECONDS)]
    process = subprocess.Popen(argv, env={**environment, "LETHE_JOB_SLOTS": "2", "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def attempts(home: Path, job_id: str) -> list[str]:
    """Which attempts at a job began to work."""
    return sorted(path.name for path in (home / "marks" / job_id).glob("attempt-*"))


def test_two_services_run_each_job_once_and_take_over_what_a_killed_one_held(
    store: JobStore, child_environment: dict[str, str], eventually: Eventually, tmp_path: Path
) -> None:
    for name in JOBS:
        store.create(job_id=name, kind="alone", spec={})
    long_one = store.create(job_id="job_long", kind="steps", spec={"steps": 150})
    with service(child_environment) as first:
        eventually(lambda: sum(store.get(name).state == "running" for name in JOBS) >= 2)
        with service(child_environment):
            eventually(lambda: sum(store.get(name).is_settled for name in JOBS) >= 6, 90)
            first.send_signal(signal.SIGSTOP)  # so that it claims no more while its jobs are counted
            held = [job.id for job in store.list(kinds=["alone"]) if job.state == "running" and f"/{first.pid}/" in (job.lease_owner or "")]
            first.kill()
            first.wait()
            eventually(lambda: all(store.get(name).is_settled for name in [*JOBS, long_one.id]), 120)
    jobs = [store.get(name) for name in JOBS]
    assert {job.state for job in jobs} == {"succeeded"}
    assert [job.attempt for job in jobs if job.id not in held] == [1] * (len(JOBS) - len(held))
    assert {job.attempt for job in jobs if job.id in held} <= {1, 2}
    for job in jobs:
        assert attempts(tmp_path, job.id)[-1] == f"attempt-{job.attempt}"
        assert not (tmp_path / "marks" / job.id / "running").exists()
    assert store.get(long_one.id).state == "succeeded"


def test_database_killed_in_the_middle_loses_nothing_acknowledged(
    store: JobStore, child_environment: dict[str, str], eventually: Eventually, mortal_postgres: PostgresServer, tmp_path: Path
) -> None:
    """The server is away for longer than a lease; two services wait, and none takes what the other still works on."""
    acknowledged: list[str] = []
    refused: list[str] = []
    enough = threading.Event()

    def create() -> None:
        for number in range(10_000):
            if enough.is_set():
                return
            try:
                acknowledged.append(store.create(job_id=f"job_{number:04}", kind="unserved", spec={"n": number}).id)
            except UnavailableError:
                refused.append(f"job_{number:04}")
                time.sleep(0.2)

    running = [store.create(job_id=f"long_{number}", kind="steps", spec={"steps": 500}).id for number in range(2)]
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(service(child_environment))
        eventually(lambda: all(store.get(name).step > 0 for name in running))
        writer = threading.Thread(target=create)
        writer.start()
        eventually(lambda: len(acknowledged) > 20)
        mortal_postgres.kill()
        time.sleep(LEASE_SECONDS + 1)
        assert refused
        mortal_postgres.start()
        after = len(acknowledged)
        eventually(lambda: len(acknowledged) > after + 5)
        enough.set()
        writer.join()
        eventually(lambda: all(store.get(name).is_settled for name in running), 90)
    assert [store.get(name).spec["n"] for name in acknowledged] == [int(name.removeprefix("job_")) for name in acknowledged]
    for name in running:
        job = store.get(name)
        assert (job.state, job.attempt, job.losses, job.result) == ("succeeded", 1, 0, {"steps": 500})
        assert attempts(tmp_path, name) == ["attempt-1"]
