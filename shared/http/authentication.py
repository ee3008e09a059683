"""ASGI middleware that finds out who calls, before anything of the request but its head is read."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from shared.access import ANONYMOUS, ON_BEHALF_OF, Caller, bound_caller
from shared.access.authenticator import Authenticator
from shared.errors import ForbiddenError, LetheError, UnauthenticatedError
from shared.http.access import AUTH_FAILURES, OPEN_PATHS
from shared.http.handlers import problem_response
from shared.http.problems import MalformedRequestError, problem_of
from shared.telemetry import current_trace_id

_CALLER_ID: Final = re.compile(r"[\x21-\x7e]{1,255}")
_REALM: Final = 'Bearer realm="lethe"'


class Authentication:
    """Binds the caller of each request; where authentication is off, everybody is `anonymous` and may do all."""

    def __init__(self, app: ASGIApp, *, required: bool) -> None:
        self._app = app
        self._required = required

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Pass the request on as its caller's, or answer why not."""
        if scope["type"] != "http" or not self._required or scope["path"] in OPEN_PATHS:
            with bound_caller(ANONYMOUS):
                await self._app(scope, receive, send)
            return
        try:
            caller = await _caller_of(Headers(scope=scope), scope["state"]["authenticator"])
        except LetheError as error:
            await _refuse(error, scope, receive, send)
            return
        with bound_caller(caller):
            await self._app(scope, receive, send)


def authentication_headers(error: LetheError) -> dict[str, str]:
    """The WWW-Authenticate header of a refusal (RFC 6750); a caller who showed nothing is told no error."""
    if not isinstance(error, UnauthenticatedError):
        return {}
    said = "" if error.reason == "missing" else f', error="invalid_token", error_description="{error.reason}"'
    return {"WWW-Authenticate": _REALM + said}


async def _caller_of(headers: Headers, authenticator: Authenticator) -> Caller:
    """The caller of a request, with the one that a service works for."""
    shown = headers.getlist("authorization")
    if len(shown) > 1:
        raise UnauthenticatedError("There is more than one Authorization header.", reason="malformed")
    caller = await authenticator.caller_of(shown[0] if shown else None)
    principal = headers.get(ON_BEHALF_OF)
    if principal is None:
        return caller
    if caller.kind != "service":
        raise ForbiddenError(f"{ON_BEHALF_OF} is for the services of Lethe alone.")
    if not _CALLER_ID.fullmatch(principal):
        raise MalformedRequestError(f"{ON_BEHALF_OF} must be 1 to 255 visible ASCII characters.")
    return replace(caller, on_behalf_of=principal)


async def _refuse(error: LetheError, scope: AsgiScope, receive: Receive, send: Send) -> None:
    """Answer with the problem; what there is of a body is not read, so the connection cannot be used again."""
    if isinstance(error, UnauthenticatedError):
        AUTH_FAILURES.labels(reason=error.reason).inc()
    document = problem_of(error, instance=scope["path"], trace_id=current_trace_id())
    await problem_response(document, headers={**authentication_headers(error), "Connection": "close"})(scope, receive, send)
