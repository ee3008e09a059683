"""Micro-batches: company is waited for, keys are kept apart, queues are bounded, failures reach who waits."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import anyio
import pytest
from prometheus_client import REGISTRY

from shared.diffusion import batching
from shared.diffusion.batching import MicroBatcher
from shared.errors import SaturatedError, UnavailableError

CALLER: ContextVar[str] = ContextVar("caller", default="")


class Work:
    """Doubles numbers, remembering the batches; blocks while told to."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.cancelled = False
        self.open = anyio.Event()
        self.open.set()

    async def __call__(self, key: str, items: list[int]) -> list[int]:
        self.batches.append((key, list(items)))
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if 13 in items:
            raise ValueError("unlucky")
        return [2 * item for item in items]


async def begun(work: Work) -> None:
    """Wait until a batch is under way."""
    with anyio.fail_after(30):
        while not work.batches:  # noqa: ASYNC110 - the work tells nobody
            await anyio.sleep(0.005)


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


async def test_batch_is_no_larger_than_its_limit_and_a_large_request_takes_turns() -> None:
    work = Work()
    async with MicroBatcher(work, max_batch=lambda _key: 3).serving() as batcher:
        answers = await ask_all(batcher, [("a", [1, 2, 3, 4, 5]), ("a", [6, 7]), ("b", [8]), ("a", [])])
    assert answers == [[2, 4, 6, 8, 10], [12, 14], [16], []]
    assert work.batches == [("a", [1, 2, 3]), ("a", [6, 7, 4]), ("b", [8]), ("a", [5])]


async def test_work_that_has_room_for_fewer_answers_them_first_and_the_others_keep_their_places() -> None:
    batches: list[list[int]] = []

    async def work(_key: str, items: list[int]) -> list[int]:
        batches.append(items)
        return [2 * item for item in items[:2]]

    async with MicroBatcher(work).serving() as batcher:
        answers = await ask_all(batcher, [("a", [1, 2, 3, 4, 5]), ("a", [6]), ("b", [7]), ("a", [8, 9, 10])])
    assert answers == [[2, 4, 6, 8, 10], [12], [14], [16, 18, 20]]
    assert batches == [[1, 2, 3, 4, 5, 6, 8, 9, 10], [6, 8, 9, 10, 3, 4, 5], [7], [3, 4, 5, 9, 10], [9, 10, 5], [5]]


async def test_only_a_crowd_waits_for_company(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered: list[float] = []
    sleep = asyncio.sleep

    async def slept(seconds: float) -> None:
        gathered.append(seconds)
        await sleep(0)

    monkeypatch.setattr(batching.asyncio, "sleep", slept)
    async with MicroBatcher(Work(), gathering_seconds=7).serving() as batcher:
        for _ in range(3):
            await batcher.submit("a", [1])
        assert gathered == []
        await ask_all(batcher, [("a", [1]), ("a", [2])])
        assert gathered == [7]
        await batcher.submit("a", [1])  # there was company just now
        assert gathered == [7, 7]
        await batcher.submit("a", [1])
        assert gathered == [7, 7]


async def test_next_batch_gathers_while_one_runs() -> None:
    work = Work()
    work.open = anyio.Event()
    async with MicroBatcher(work).serving() as batcher, anyio.create_task_group() as group:
        group.start_soon(batcher.submit, "a", [1])
        await begun(work)
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
        await begun(work)
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
    async with MicroBatcher(work, max_waiting=1).serving() as batcher, anyio.create_task_group() as group:
        group.start_soon(batcher.submit, "a", [1])
        await begun(work)
        with anyio.move_on_after(0.02):
            await batcher.submit("a", [2])
        assert not batcher.is_saturated  # its place is free again
        group.start_soon(batcher.submit, "a", [3])
        await anyio.sleep(0.02)
        work.open.set()
    assert work.batches == [("a", [1]), ("a", [3])]


async def test_caller_that_goes_away_in_the_middle_leaves_the_batch_to_the_others() -> None:
    work = Work()
    work.open = anyio.Event()
    async with MicroBatcher(work).serving() as batcher:
        first, second = (asyncio.create_task(batcher.submit("a", [number])) for number in (1, 2))
        await begun(work)
        first.cancel()
        await anyio.sleep(0.02)
        work.open.set()
        assert await second == [4]
    assert work.batches == [("a", [1, 2])]
    assert not work.cancelled


async def test_last_caller_that_goes_away_stops_the_work_and_the_next_batch_runs() -> None:
    work = Work()
    work.open = anyio.Event()
    async with MicroBatcher(work).serving() as batcher:
        callers = [asyncio.create_task(batcher.submit("a", [number])) for number in (1, 2)]
        await begun(work)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        work.open.set()
        assert await batcher.submit("a", [3]) == [6]
    assert work.cancelled
    assert work.batches == [("a", [1, 2]), ("a", [3])]


async def test_batch_is_put_together_when_its_turn_has_come() -> None:
    work, turns, free = Work(), anyio.Event(), anyio.Event()

    async def turn() -> None:
        turns.set()
        await free.wait()

    async with MicroBatcher(work, turn=turn).serving() as batcher, anyio.create_task_group() as group:
        group.start_soon(batcher.submit, "a", [1])
        await turns.wait()
        group.start_soon(batcher.submit, "a", [2])
        await anyio.sleep(0.01)
        free.set()
    assert work.batches == [("a", [1, 2])]


async def test_batch_is_worked_on_in_the_context_of_its_oldest_request() -> None:
    seen: list[str] = []

    async def work(_key: str, items: list[int]) -> list[int]:
        seen.append(CALLER.get())
        return items

    async def ask(batcher: MicroBatcher[str, int, int], name: str) -> None:
        CALLER.set(name)
        await batcher.submit("a", [1])

    async with MicroBatcher(work).serving() as batcher, anyio.create_task_group() as group:
        group.start_soon(ask, batcher, "first")
        group.start_soon(ask, batcher, "second")
    assert seen == ["first"]


async def test_stop_lets_nobody_wait_for_ever() -> None:
    work = Work()
    work.open = anyio.Event()
    async with MicroBatcher(work).serving() as batcher:
        under_way = asyncio.create_task(batcher.submit("a", [1]))
        await begun(work)
        queued = asyncio.create_task(batcher.submit("a", [1]))
        await anyio.sleep(0.01)
    for caller in (under_way, queued):
        with pytest.raises(UnavailableError, match="stopping"):
            await caller
    assert work.cancelled


async def test_requests_that_wait_are_told_on_metrics() -> None:
    def waiting() -> float:
        return REGISTRY.get_sample_value("lethe_requests_waiting") or 0.0

    work = Work()
    work.open = anyio.Event()
    before = waiting()
    async with MicroBatcher(work).serving() as batcher:
        callers = [asyncio.create_task(batcher.submit("a", [1])) for _ in range(3)]
        await begun(work)
        assert waiting() == before + 3
        work.open.set()
        await asyncio.gather(*callers)
    assert waiting() == before
