"""Turns: some at once, some waiting, the rest refused."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY

from services.mitigator.turns import Turns
from shared.errors import SaturatedError


def waiting() -> float:
    return REGISTRY.get_sample_value("lethe_requests_waiting") or 0.0


async def test_turns_are_taken_in_order_so_many_at_once_and_the_next_is_refused() -> None:
    turns, go, before = Turns(at_once=2, max_waiting=1), asyncio.Event(), waiting()
    begun: list[int] = []

    async def take(number: int) -> None:
        async with turns.taken():
            begun.append(number)
            await go.wait()

    first, second, third = (asyncio.create_task(take(number)) for number in range(3))
    await asyncio.sleep(0.01)
    assert begun == [0, 1]
    assert waiting() == before + 1
    assert turns.is_saturated
    with pytest.raises(SaturatedError, match="1 requests wait already"):
        await take(3)
    go.set()
    await asyncio.gather(first, second, third)
    assert begun == [0, 1, 2]
    assert waiting() == before
    assert not turns.is_saturated


async def test_turn_is_free_again_after_a_failure_and_after_waiting_in_vain() -> None:
    turns = Turns(at_once=1, max_waiting=1)
    with pytest.raises(ValueError, match="unlucky"):
        async with turns.taken():
            raise ValueError("unlucky")
    async with turns.taken():
        waiting = asyncio.create_task(turns.taken().__aenter__())
        await asyncio.sleep(0.01)
        assert turns.is_saturated
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not turns.is_saturated
