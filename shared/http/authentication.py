"""ASGI middleware that finds out who calls and whether they may, before anything of the request but its head is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from shared.access import ANONYMOUS, ON_BEHALF_OF, Caller, bound_caller, current_caller
from shared.access.authenticator import Authenticator
from shared.access.key_records import EndedKeyError
from shared.errors import ForbiddenError, LetheError, UnauthenticatedError
from shared.http.access import AUTH_FAILURES, OPEN_PATHS, Requirement, asked_for
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
            if isinstance(error, EndedKeyError):
                scope["state"]["record"].name(error.holder)
            await _refuse(error, scope, receive, send)
            return
        with bound_caller(caller):
            await self._app(scope, receive, send)


class Admission:
    """Refuses what the caller may not ask; behind whatever notes who calls, so that a denial has a name, and before the body is read."""

    def __init__(self, app: ASGIApp, *, guarded: Sequence[tuple[APIRoute, Requirement]]) -> None:
        self._app = app
        self._guarded = guarded

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer why not."""
        if scope["type"] == "http":
            try:
                self._require_right(scope)
            except LetheError as error:
                await _refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _require_right(self, scope: AsgiScope) -> None:
        """ForbiddenError for a caller who works for another without being a service, or who lacks the route's scope."""
        caller = current_caller()
        if caller.kind != "anonymous" and ON_BEHALF_OF in Headers(scope=scope):
            _require_principal(caller)
        if (found := asked_for(scope, self._guarded)) is not None:
            found[1].check(caller)


def authentication_headers(error: LetheError) -> dict[str, str]:
    """The WWW-Authenticate header of a refusal (RFC 6750); a caller who showed nothing is told no error."""
    if not isinstance(error, UnauthenticatedError):
        return {}
    said = "" if error.reason == "missing" else f', error="invalid_token", error_description="{error.reason}"'
    return {"WWW-Authenticate": _REALM + said}


async def _caller_of(headers: Headers, authenticator: Authenticator) -> Caller:
    """The caller of a request; a service with the caller that it works for."""
    shown = headers.getlist("authorization")
    if len(shown) > 1:
        raise UnauthenticatedError("There is more than one Authorization header.", reason="malformed")
    caller = await authenticator.caller_of(shown[0] if shown else None)
    principal = headers.get(ON_BEHALF_OF, "")
    # What others say there, or what is no id, is refused by Admission: once it is known who said it.
    return replace(caller, on_behalf_of=principal) if caller.kind == "service" and _CALLER_ID.fullmatch(principal) else caller


def _require_principal(caller: Caller) -> None:
    """Refuse a caller who named another one, but may not, or named nobody."""
    if caller.kind != "service":
        AUTH_FAILURES.labels(reason="scope").inc()
        raise ForbiddenError(f"{ON_BEHALF_OF} is for the services of Lethe alone.")
    if caller.on_behalf_of is None:
        raise MalformedRequestError(f"{ON_BEHALF_OF} must be 1 to 255 visible ASCII characters.")


async def _refuse(error: LetheError, scope: AsgiScope, receive: Receive, send: Send) -> None:
    """Answer with the problem; what there is of a body is not read, so the connection cannot be used again."""
    if isinstance(error, UnauthenticatedError):
        AUTH_FAILURES.labels(reason=error.reason).inc()
    document = problem_of(error, instance=scope["path"], trace_id=current_trace_id())
    await problem_response(document, headers={**authentication_headers(error), "Connection": "close"})(scope, receive, send)
