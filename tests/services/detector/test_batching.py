"""Micro-batches: company is waited for, keys are kept apart, queues are bounded, failures reach who waits."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from services.detector.batching import MicroBatcher
from shared.errors import SaturatedError


class Work:
    """Doubles numbers, remembering the batches; blocks while told to."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.open = anyio.Event()
        self.open.set()

    async def __call__(self, key: str, items: list[int]) -> list[int]:
        self.batches.append((key, list(items)))
        await self.open.wait()
        if 13 in items:
            raise ValueError("unlucky")
        return [2 * item for item in items]


async def ask_all(batcher: MicroBatcher[str, int, int], requests: list[tuple[str, list[int]]]) -> list[list[int] | Exception]:
    answers: list[list[int] | Exception] = [[]] * len(requests)

    async def ask(index: int, key: str, items: list[int]) -> None:
        try:
            answers[index] = await batcher.submit(key, items)
        except Exception as error:  # noqa: BLE001 - compared by the test
            answers[index] = error

    async with anyio.create_task_group() as group:
        for index, (key, items) in enumerate(requests):
            group.start_soon(ask, index, key, items)
    return answers


async def test_requests_that_arrive_together_are_worked_on_together() -> None:
    work = Work()
    async with MicroBatcher(work).serving() as batcher:
        answers = await ask_all(batcher, [("a", [1]), ("a", [2, 3]), ("a", [4])])
    assert answers == [[2], [4, 6], [8]]
    assert work.batches == [("a", [1, 2, 3, 4])]


async def test_requests_with_other_settings_are_kept_apart() -> None:
    work = Work()
    async with MicroBatcher(work).serving() as batcher:
        answers = await ask_all(batcher, [("a", [1]), ("b", [2]), ("a", [3])])
    assert answers == [[2], [4], [6]]
    assert work.batches == [("a", [1, 3]), ("b", [2])]


async def test_batch_is_no_larger_than_its_limit_unless_one_request_is() -> None:
    work = Work()
    async with MicroBatcher(work, max_batch=3).serving() as batcher:
        answers = await ask_all(batcher, [("a", [1, 2]), ("a", [3, 4]), ("a", [5]), ("a", [6, 7, 8, 9])])
    assert answers == [[2, 4], [6, 8], [10], [12, 14, 16, 18]]
    assert [len(items) for _, items in work.batches] == [3, 2, 4]


async def test_next_batch_gathers_while_one_runs() -> None:
    work = Work()
    work.open = anyio.Event()
    async with MicroBatcher(work).serving() as batcher, anyio.create_task_group() as group:
        group.start_soon(batcher.submit, "a", [1])
        await anyio.sleep(0.05)
        group.start_soon(batcher.submit, "a", [2])
        await anyio.sleep(0.02)
        group.start_soon(batcher.submit, "a", [3])
        await anyio.sleep(0.02)
        assert work.batches == [("a", [1])]
        work.open.set()
    assert work.batches == [("a", [1]), ("a", [2, 3])]


async def test_request_beyond_the_queue_is_refused_at_once() -> None:
    work = Work()
    work.open = anyio.Event()
    async with MicroBatcher(work, max_waiting=2).serving() as batcher, anyio.create_task_group() as group:
        group.start_soon(batcher.submit, "a", [1])
        await anyio.sleep(0.05)
        group.start_soon(batcher.submit, "a", [2])
        group.start_soon(batcher.submit, "a", [3])
        await anyio.sleep(0.02)
        assert batcher.is_saturated
        with pytest.raises(SaturatedError, match="2 requests wait"):
            await batcher.submit("a", [4])
        work.open.set()
    assert work.batches[-1] == ("a", [2, 3])


async def test_failure_reaches_every_request_of_its_batch_and_no_later_one() -> None:
    work = Work()
    async with MicroBatcher(work).serving() as batcher:
        failed = await ask_all(batcher, [("a", [1]), ("a", [13])])
        assert [str(error) for error in failed] == ["unlucky", "unlucky"]
        assert await batcher.submit("a", [4]) == [8]


async def test_caller_that_went_away_is_not_worked_for() -> None:
    work = Work()
    work.open = anyio.Event()
    async with MicroBatcher(work).serving() as batcher, anyio.create_task_group() as group:
        group.start_soon(batcher.submit, "a", [1])
        await anyio.sleep(0.05)
        with anyio.move_on_after(0.02):
            await batcher.submit("a", [2])
        group.start_soon(batcher.submit, "a", [3])
        await anyio.sleep(0.02)
        work.open.set()
    assert work.batches == [("a", [1]), ("a", [3])]


async def test_stop_lets_nobody_wait_for_ever() -> None:
    work = Work()
    work.open = anyio.Event()
    ended: list[str] = []

    async def ask(batcher: MicroBatcher[str, int, int], name: str) -> None:
        try:
            await batcher.submit("a", [1])
        except asyncio.CancelledError:
            ended.append(name)

    async with anyio.create_task_group() as group, MicroBatcher(work).serving() as batcher:
        group.start_soon(ask, batcher, "under way")
        await anyio.sleep(0.05)
        group.start_soon(ask, batcher, "queued")
        await anyio.sleep(0.01)
    assert sorted(ended) == ["queued", "under way"]
