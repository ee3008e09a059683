"""The lane: one piece of work at a time, a bounded queue, the event loop free."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from shared.diffusion.lane import ComputeLane
from shared.errors import JobCancelledError, SaturatedError, UnavailableError
from shared.telemetry import bound_context, current_trace_id

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def lane() -> Iterator[ComputeLane]:
    opened = ComputeLane(max_waiting=2)
    yield opened
    opened.close()


async def test_work_runs_one_after_another_on_one_thread(lane: ComputeLane) -> None:
    running: list[str] = []

    def work(name: str) -> int:
        running.append(f"{name} begins")
        running.append(f"{name} ends")
        return threading.get_ident()

    first, second = await asyncio.gather(lane.run(lambda: work("a")), lane.run(lambda: work("b")))
    assert running == ["a begins", "a ends", "b begins", "b ends"]
    assert first == second != threading.get_ident()


async def test_work_carries_the_trace_of_its_own_caller(lane: ComputeLane) -> None:
    async def trace_seen_by(trace_id: str) -> str | None:
        with bound_context(trace_id=trace_id):
            return await lane.run(current_trace_id)

    assert await asyncio.gather(trace_seen_by("a"), trace_seen_by("b")) == ["a", "b"]
    assert await lane.run(current_trace_id) is None


async def test_full_queue_refuses_at_once_and_takes_again_afterwards(lane: ComputeLane) -> None:
    release = threading.Event()
    held = [asyncio.create_task(lane.run(release.wait)) for _ in range(3)]  # one runs, two wait
    await asyncio.sleep(0)
    assert lane.is_saturated
    with pytest.raises(SaturatedError, match="2 requests wait"):
        await lane.run(lambda: None)
    release.set()
    assert await asyncio.gather(*held) == [True, True, True]
    assert await lane.run(lambda: 7) == 7


async def test_full_queue_refuses_nothing_that_was_admitted_elsewhere(lane: ComputeLane) -> None:
    release = threading.Event()
    held = [asyncio.create_task(lane.run(release.wait)) for _ in range(3)]
    await asyncio.sleep(0)
    assert lane.is_saturated
    admitted = asyncio.create_task(lane.run(lambda: 7, admitted=True))
    await asyncio.sleep(0)
    release.set()
    assert await asyncio.gather(admitted, *held) == [7, True, True, True]
    assert not lane.is_saturated


async def test_caller_that_stops_waiting_keeps_its_place_until_its_work_is_done(lane: ComputeLane) -> None:
    release = threading.Event()
    begun = threading.Event()

    def hold() -> bool:
        begun.set()
        return release.wait(30)

    held = [asyncio.create_task(lane.run(work)) for work in (hold, release.wait, release.wait)]
    assert await asyncio.to_thread(begun.wait, 30)
    held[0].cancel()  # it runs already
    await asyncio.sleep(0)
    assert lane.is_saturated
    held[1].cancel()  # it never began
    await asyncio.sleep(0)
    assert not lane.is_saturated
    release.set()
    assert await held[2] is True


async def test_work_that_nobody_waits_for_ends_at_its_next_look(lane: ComputeLane) -> None:
    begun, ended = threading.Event(), threading.Event()

    def draw_on_and_on() -> None:
        begun.set()
        try:
            while True:
                lane.check_wanted()
                ended.wait(0.001)
        except JobCancelledError:
            ended.set()
            raise

    waiting = asyncio.create_task(lane.run(draw_on_and_on))
    await asyncio.to_thread(begun.wait, 30)
    waiting.cancel()
    assert await asyncio.to_thread(ended.wait, 30)
    assert await lane.run(lambda: lane.check_wanted() or 7) == 7  # the next one is wanted


async def test_error_of_the_work_reaches_its_caller_and_frees_its_place(lane: ComputeLane) -> None:
    def fail() -> None:
        raise LookupError("no such thing")

    for _ in range(5):
        with pytest.raises(LookupError, match="no such thing"):
            await lane.run(fail)
    assert not lane.is_saturated


async def test_closed_lane_takes_nothing() -> None:
    lane = ComputeLane(max_waiting=0)
    lane.check_wanted()
    lane.close()
    with pytest.raises(UnavailableError, match="stopping"):
        lane.check_wanted()
    for _ in range(3):
        with pytest.raises(RuntimeError):
            await lane.run(lambda: None)
    assert not lane.is_saturated
