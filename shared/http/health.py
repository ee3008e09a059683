"""Whether a service lives and whether it should get work; outside the schema, telling neither version nor path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from prometheus_client import Gauge
from starlette.responses import Response

from shared.errors import LetheError
from shared.http.access import requires
from shared.http.metrics import exposition
from shared.http.state import draining_of

READY = Gauge("lethe_ready", "Whether the service wants work: 1 when /readyz answers 200, asked anew at each scrape.")

ReadyCheck = Callable[[Request], list[str]]

# A probe that hangs is a probe that fails; Kubernetes gives up after a second by default.
_READY_TIMEOUT_SECONDS: Final = 5.0


def health_routes(*, ready: ReadyCheck) -> APIRouter:
    """/livez, /readyz and /metrics; `ready` answers why the service should get no work, or nothing."""
    router = APIRouter(include_in_schema=False)
    readiness = _Readiness(ready)

    async def reasons_against(request: Request) -> list[str]:
        """Why requests are not welcome now."""
        return ["draining"] if draining_of(request.app).begun else await readiness.reasons(request)

    @router.get("/livez")
    async def livez() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @router.get("/readyz")
    async def readyz(request: Request) -> JSONResponse:
        """200 when requests are welcome, 503 with the reasons when not."""
        reasons = await reasons_against(request)
        headers = {"Cache-Control": "no-store"}
        if reasons:
            return JSONResponse({"status": "not ready", "reasons": reasons}, status_code=503, headers=headers)
        return JSONResponse({"status": "ready"}, headers=headers)

    @router.get("/metrics", dependencies=[requires("metrics:read")])
    async def metrics(request: Request) -> Response:
        """Prometheus' text format."""
        READY.set(not await reasons_against(request))
        return await asyncio.to_thread(exposition)

    return router


class _Readiness:
    """Runs one check at a time: probes that come while one hangs share it, instead of taking thread after thread."""

    def __init__(self, ready: ReadyCheck) -> None:
        self._ready = ready
        self._check: asyncio.Task[list[str]] | None = None
        self._said: list[str] = []

    async def reasons(self, request: Request) -> list[str]:
        """What the check says, in time; of one that takes longer, what the last one said too, since that names the cause."""
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._ask(request))
        done, _ = await asyncio.wait([self._check], timeout=_READY_TIMEOUT_SECONDS)
        return self._check.result() if done else ["the readiness check does not end", *self._said]

    async def _ask(self, request: Request) -> list[str]:
        """Ask on a thread; an error of Lethe's is a reason too."""
        try:
            self._said = await asyncio.to_thread(self._ready, request)
        except LetheError as error:
            self._said = [str(error)]
        return self._said
