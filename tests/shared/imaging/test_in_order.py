"""Work on many things at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from shared.imaging.in_order import AHEAD, map_in_order


def test_results_come_in_order_whatever_takes_long() -> None:
    def work(number: int) -> int:
        time.sleep(0.01 if number % 3 == 0 else 0)
        return number * number

    assert list(map_in_order(work, range(50), threads=4)) == [number * number for number in range(50)]


def test_few_results_wait() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = map_in_order(lambda number: number, items(), threads=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(taken) <= AHEAD * 2 + 3


def test_exception_comes_where_the_result_would() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise ValueError(number)
        return number

    results = map_in_order(work, range(5), threads=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="2"):
        next(results)


def test_threads_end_with_the_work() -> None:
    before = threading.active_count()
    results = map_in_order(lambda number: number, range(100), threads=3)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
