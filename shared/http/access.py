"""What a caller needs for a route: each route declares a scope, and the action that its use means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Depends

from shared.access import Scope, current_caller
from shared.errors import ForbiddenError

# What the audit log calls the use of a route; None is plain reading.
Action = Literal["generate", "train", "score", "mitigate", "download", "admin"]


@dataclass(frozen=True, slots=True)
class Requirement:
    """The scope that a route asks for (None: any valid credential) and the action that it does."""

    scope: Scope | None
    action: Action | None

    async def __call__(self) -> None:
        """Let the caller pass who has the scope; ForbiddenError for any other."""
        if self.scope is not None and self.scope not in current_caller().scopes:
            raise ForbiddenError(f"This needs the scope {self.scope!r}, which the credential does not carry.")


def requires(scope: Scope | None, *, action: Action | None = None) -> Any:
    """A dependency for `dependencies=[…]` of a route: the scope that its callers need, and what is done by it."""
    return Depends(Requirement(scope, action))
