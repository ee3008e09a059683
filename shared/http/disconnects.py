"""Work that is done for a caller who waits, and given up when the caller goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from shared.errors import JobCancelledError

ResultT = TypeVar("ResultT")


async def while_connected(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The result of `work`, which is cancelled as soon as the caller of `request` (whose body was read) disconnects."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise JobCancelledError("The caller went away before the work was done.")
        return await working
    finally:
        working.cancel()
        watching.cancel()


async def _gone(request: Request) -> None:
    """Return once the caller has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
