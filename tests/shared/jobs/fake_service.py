"""A service that does nothing but run jobs, for tests that kill it."""

from __future__ import annotations

import asyncio
import os

from shared.jobs.executor import ProcessExecutor
from shared.jobs.records import JobStore
from shared.jobs.runner import JobRunner
from shared.settings import get_settings


async def serve() -> None:
    """Run jobs until killed."""
    store = JobStore.open(get_settings())
    environment = {"LETHE_HOME": str(get_settings().home), "PYTHONPATH": os.environ["PYTHONPATH"]}
    executor = ProcessExecutor(worker_module="tests.shared.jobs.fake_worker", slots=1, environment=environment)
    async with JobRunner(store=store, executor=executor, kinds=["quick", "steps"]).serving():
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
