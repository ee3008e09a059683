"""What a caller needs for a route: each route declares a scope, and the action that its use means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from fastapi import APIRouter, Depends
from fastapi.routing import APIRoute
from prometheus_client import Counter
from starlette.routing import Match
from starlette.types import Scope as AsgiScope

from shared.access import Caller, Scope, current_caller
from shared.errors import ForbiddenError

AUTH_FAILURES = Counter("lethe_auth_failures_total", "Requests whose caller was not let in, by reason.", ["reason"])

# Why a credential is refused; `scope`: it is good, but not for this route.
REASONS: Final = (
    "missing",
    "malformed",
    "unknown",
    "expired",
    "revoked",
    "not-yet-valid",
    "issuer",
    "audience",
    "algorithm",
    "signature",
    "scope",
)
# All of them from the start: an increase from nothing to one is none to Prometheus, and alerts would miss the first.
for _reason in REASONS:
    AUTH_FAILURES.labels(reason=_reason)

# Asked by machines that hold no credential; they tell nothing but whether the service lives and wants work.
OPEN_PATHS: Final = frozenset({"/livez", "/readyz"})

# Where a request's scope keeps what was found for it: two middlewares ask, and forty routes are matched one after the other.
_ASKED_FOR: Final = "lethe.asked_for"

# What the audit log calls the use of a route; None is plain reading.
Action = Literal["generate", "train", "score", "mitigate", "download", "admin"]


@dataclass(frozen=True, slots=True)
class Requirement:
    """The scope that a route asks for (None: any valid credential) and the action that it does."""

    scope: Scope | None
    action: Action | None

    async def __call__(self) -> None:
        """Hold a route to its declaration, wherever it is mounted; the middleware asked the same before the body was read."""
        self.check(current_caller())

    def check(self, caller: Caller) -> None:
        """Let a caller pass who has the scope; ForbiddenError for any other."""
        if self.scope is not None and self.scope not in caller.scopes:
            AUTH_FAILURES.labels(reason="scope").inc()
            raise ForbiddenError(f"This needs the scope {self.scope!r}, which the credential does not carry.")


def requires(scope: Scope | None, *, action: Action | None = None) -> Any:
    """A dependency for `dependencies=[…]` of a route: the scope that its callers need, and what is done by it."""
    return Depends(Requirement(scope, action))


def guarded_routes(routers: Iterable[APIRouter]) -> list[tuple[APIRoute, Requirement]]:
    """What each route asks of its callers; TypeError where one says nothing, so that no app can be made with it."""
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    return [(route, _requirement_of(route)) for route in routes if route.path not in OPEN_PATHS]


def asked_for(scope: AsgiScope, guarded: Sequence[tuple[APIRoute, Requirement]]) -> tuple[APIRoute, Requirement] | None:
    """The route of a request, and what it asks of its callers; None where there is no such route. Found once for a request."""
    if _ASKED_FOR not in scope:
        scope[_ASKED_FOR] = next((use for use in guarded if use[0].matches(scope)[0] is Match.FULL), None)
    found: tuple[APIRoute, Requirement] | None = scope[_ASKED_FOR]
    return found


def declare_access(schema: dict[str, Any], guarded: Iterable[tuple[APIRoute, Requirement]]) -> None:
    """Say in an OpenAPI schema how callers show who they are, and at each operation which scope it asks for."""
    schema["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key of Lethe, or a token of the identity provider (JWT)."}
    }
    for route, requirement in guarded:
        for method in route.methods or () if route.include_in_schema else ():
            operation = schema["paths"][route.path_format][method.lower()]
            operation["security"] = [{"bearer": [requirement.scope] if requirement.scope else []}]


def _requirement_of(route: APIRoute) -> Requirement:
    """What a route declares."""
    for dependency in route.dependencies:
        if isinstance(dependency.dependency, Requirement):
            return dependency.dependency
    raise TypeError(f"{route.path} says nothing of its callers; declare dependencies=[requires(…)] at it.")
