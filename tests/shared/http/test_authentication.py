"""Who calls, as routes see it."""

from __future__ import annotations

from typing import Any

from shared.access import ANONYMOUS, Caller, current_caller
from shared.http.authentication import Authentication


async def test_without_authentication_everybody_is_anonymous() -> None:
    seen: list[Caller] = []

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(current_caller())

    await Authentication(app)({"type": "http"}, None, None)  # type: ignore[arg-type]
    assert seen == [ANONYMOUS]
