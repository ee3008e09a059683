"""The caller of a request: an id, what kind of credential it showed, and the scopes that the credential carries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Literal, get_args

# read: look at catalog, jobs and reports. train: data sets, trainings, searches, imports, calibrations, galleries, and their cancel and
# retry. generate, mitigate: draw images. score: screenings and matches. export: films and records of patients. admin: aliases and keys.
# audit:read: the audit log. metrics:read: /metrics.
Scope = Literal["read", "train", "generate", "mitigate", "score", "export", "admin", "audit:read", "metrics:read"]
CallerKind = Literal["anonymous", "key", "person", "service"]

# The header in which a service names the caller that it works for.
ON_BEHALF_OF: Final = "Lethe-On-Behalf-Of"
EVERY_SCOPE: Final[frozenset[Scope]] = frozenset(get_args(Scope))


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks; `on_behalf_of` is the caller that a service of Lethe works for."""

    id: str
    kind: CallerKind
    scopes: frozenset[Scope]
    on_behalf_of: str | None = None


# Everybody, where authentication is off.
ANONYMOUS: Final = Caller(id="anonymous", kind="anonymous", scopes=EVERY_SCOPE)
# Outside of any request: may do nothing.
NOBODY: Final = Caller(id="nobody", kind="anonymous", scopes=frozenset())

_CALLER: ContextVar[Caller] = ContextVar("lethe_caller", default=NOBODY)


def current_caller() -> Caller:
    """The caller of the request in whose context this is called."""
    return _CALLER.get()


@contextmanager
def bound_caller(caller: Caller) -> Iterator[None]:
    """Make everything inside a `with` block the caller's doing, also in tasks and threads that take over its context."""
    token = _CALLER.set(caller)
    try:
        yield
    finally:
        _CALLER.reset(token)
