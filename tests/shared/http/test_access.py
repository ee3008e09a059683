"""What routes ask of their callers."""

from __future__ import annotations

import pytest

from shared.access import Caller, bound_caller
from shared.errors import ForbiddenError
from shared.http.access import Requirement

READER = Caller(id="key_reader", kind="key", scopes=frozenset({"read"}))


async def test_caller_with_the_scope_passes() -> None:
    with bound_caller(READER):
        await Requirement("read", None)()


async def test_caller_without_the_scope_is_told_which_one_is_needed() -> None:
    with bound_caller(READER), pytest.raises(ForbiddenError, match="'admin'"):
        await Requirement("admin", "admin")()


async def test_any_caller_passes_where_no_scope_is_asked() -> None:
    await Requirement(None, None)()
