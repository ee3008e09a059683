"""The actor of a job, tried without Ray: it runs one child process and passes the wish to end it on."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from shared.jobs.executor import EXIT_INTERRUPTED
from shared.jobs.ray_job import RayJob

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.shared.jobs.conftest import Arena

WORKER = "tests.shared.jobs.fake_worker"


@pytest.fixture(autouse=True)
def node(child_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a node."""
    for name, value in child_environment.items():
        monkeypatch.setitem(os.environ, name, value)


def test_job_runs_to_its_end(process_arena: Arena) -> None:
    assert RayJob(WORKER).run(process_arena.queue("quick")) == 0


def test_stop_interrupts_the_process(process_arena: Arena, eventually: Callable[..., None]) -> None:
    job_id = process_arena.queue("steps")
    job = RayJob(WORKER)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(job.run(job_id)))
    thread.start()
    eventually(process_arena.mark(job_id).exists)
    job.stop(30.0)
    thread.join(60)
    assert codes == [EXIT_INTERRUPTED]


def test_job_that_was_stopped_before_it_began_starts_no_process(process_arena: Arena) -> None:
    job_id = process_arena.queue("quick")
    job = RayJob(WORKER)
    job.stop(30.0)
    assert job.run(job_id) == EXIT_INTERRUPTED
    assert not process_arena.mark(job_id).exists()
