"""Two trainers on one PostgreSQL: each job is run by one of them, and the other takes over what a killed one held."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from shared.http.migrations import migrate
from shared.jobs.records import JobStore
from tests.fixtures.processes import ROOT, ServiceProcess

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer

pytestmark = [pytest.mark.server, pytest.mark.slow]
DATASETS = 6
PHANTOM: dict[str, Any] = {"name": "a", "source": {"format": "phantom", "uri": None, "patients": 3}, "image_size": 16}


@pytest.fixture
def records(postgres_server: PostgresServer) -> Iterator[JobStore]:
    """The records of both trainers."""
    store = JobStore(postgres_server.new_database())
    migrate(store._database)
    yield store
    store.close()


@pytest.fixture
def trainers(records: JobStore, tmp_path: Path) -> Iterator[list[ServiceProcess]]:
    """Two trainers on one database and one object store."""
    environment = {
        "LETHE_HOME": str(tmp_path),
        "LETHE_DATABASE_URL": records._database.engine.url.render_as_string(hide_password=False),
        "LETHE_TORCH_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    with ExitStack() as stack:
        made = [ServiceProcess("trainer", environment) for _ in range(2)]
        for process in made:
            stack.callback(process.end)
        yield made


@pytest.fixture
def stopped() -> Iterator[list[psutil.Process]]:
    """Processes that a test stops, ended after it: a child that is stopped before it could ask to die with its parent outlives it."""
    processes: list[psutil.Process] = []
    yield processes
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def register(trainer: ServiceProcess, number: int) -> str:
    """Ask a trainer for a data set, under a key of its own."""
    answer = httpx.post(
        trainer.url + "/v1/datasets", json=PHANTOM | {"seed": number}, headers={"Idempotency-Key": f"k{number}"}, timeout=30
    )
    assert answer.status_code == 202
    created: str = answer.json()["id"]
    return created


def held_while_it_stands_still(trainer: ServiceProcess, records: JobStore, job_ids: list[str], stopped: list[psutil.Process]) -> list[str]:
    """Stop a trainer and its children in their tracks, and tell what it holds; it goes on if that is nothing."""
    assert trainer.process is not None
    whole = psutil.Process(trainer.process.pid)
    whole.suspend()  # first, so that it begets no child that is not stopped
    stopped[:] = [whole, *whole.children()]
    for process in stopped[1:]:
        process.suspend()
    held = [job_id for job_id in job_ids if f"/{trainer.process.pid}/" in (records.get(job_id).lease_owner or "")]
    if not held:
        for process in stopped:
            process.resume()
    return held


def runs(records: JobStore, job_id: str) -> list[int]:
    """The attempts that the events of a job tell of, each counted when it began."""
    begun = [event.data["attempt"] for event in records.events_since(job_id) if event.data["state"] == "running"]
    return sorted(set(begun))


def test_two_trainers_share_the_work_and_one_finishes_what_the_other_held(
    trainers: list[ServiceProcess], records: JobStore, stopped: list[psutil.Process], capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = trainers
    for trainer in trainers:
        trainer.start()
    ids = [register(trainers[number % 2], number) for number in range(DATASETS)]
    assert [register(trainers[(number + 1) % 2], number) for number in range(DATASETS)] == ids

    newest = first.get("/v1/datasets?page_size=4")
    oldest = second.get(f"/v1/datasets?page_size=4&page_token={newest['next_page_token']}")
    assert [item["id"] for item in newest["items"] + oldest["items"]] == ids[::-1]

    held: list[str] = []

    def holds_something() -> bool:
        held.extend(held_while_it_stands_still(first, records, ids, stopped))
        return bool(held)

    first.wait_until(holds_something)
    first.kill(signal.SIGKILL)
    second.wait_until(lambda: all(records.get(job_id).is_settled for job_id in ids))

    jobs = [records.get(job_id) for job_id in ids]
    assert [(job.state, job.result) for job in jobs] == [("succeeded", {"dataset": job.id}) for job in jobs]
    assert [job.attempt for job in jobs] == [2 if job.id in held else 1 for job in jobs]
    assert [runs(records, job.id) for job in jobs] == [list(range(1, job.attempt + 1)) for job in jobs]
    assert second.get(f"/v1/datasets/{held[0]}")["state"] == "succeeded"
    password = records._database.engine.url.password
    assert password
    assert password not in capfd.readouterr().err
