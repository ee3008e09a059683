"""ASGI middleware that finds out who calls, before anything of the request but its head is read."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from shared.access import ANONYMOUS, bound_caller


class Authentication:
    """Binds the caller of each request; where authentication is off, everybody is `anonymous` and may do all."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on as its caller's."""
        with bound_caller(ANONYMOUS):
            await self._app(scope, receive, send)
