"""A service that does nothing but run jobs, for tests that kill it: `python -m … [LEASE_SECONDS]`."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

from shared.jobs.leases import LEASE
from shared.jobs.opening import open_executor
from shared.jobs.records import JobStore
from shared.jobs.runner import JobRunner
from shared.settings import get_settings


async def serve() -> None:
    """Run jobs until killed."""
    store = JobStore.open(get_settings())
    executor = open_executor(get_settings(), worker_module="tests.shared.jobs.fake_worker")
    lease = timedelta(seconds=float(sys.argv[1])) if len(sys.argv) > 1 else LEASE
    async with JobRunner(store=store, executor=executor, kinds=["quick", "steps", "alone"], lease=lease).serving():
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
