"""Callers and where they are read."""

from __future__ import annotations

import asyncio

from shared.access import ANONYMOUS, EVERY_SCOPE, NOBODY, Caller, bound_caller, current_caller

READER = Caller(id="key_reader", kind="key", scopes=frozenset({"read"}))


def test_outside_of_a_request_nobody_calls_and_nothing_is_allowed() -> None:
    assert current_caller() is NOBODY
    assert NOBODY.scopes == frozenset()


def test_bound_caller_is_read_inside_and_gone_after() -> None:
    with bound_caller(READER):
        assert current_caller() is READER
    assert current_caller() is NOBODY


def test_anonymous_has_every_scope() -> None:
    assert (
        ANONYMOUS.scopes
        == EVERY_SCOPE
        == {"read", "train", "generate", "mitigate", "score", "export", "admin", "audit:read", "metrics:read"}
    )


async def test_caller_reaches_threads_and_tasks() -> None:
    async def in_a_task() -> Caller:
        return current_caller()

    with bound_caller(READER):
        assert await asyncio.to_thread(current_caller) is READER
        assert await asyncio.create_task(in_a_task()) is READER
