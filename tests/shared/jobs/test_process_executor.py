"""Child processes: what they are told besides the job's id."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from shared.jobs.process_executor import ProcessExecutor

if TYPE_CHECKING:
    from tests.shared.jobs.conftest import Arena


def test_thread_setting_reaches_the_child(process_arena: Arena, child_environment: dict[str, str]) -> None:
    executor = ProcessExecutor(worker_module="tests.shared.jobs.fake_worker", slots=1, torch_threads=3, environment=child_environment)
    job_id = process_arena.start(executor, "quick")
    while executor.poll(job_id) is None:
        time.sleep(0.02)
    assert process_arena.store.get(job_id).result == {"attempt": 1, "threads": "3"}
