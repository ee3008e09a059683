"""Work on many things at once, with the results in their order and few of them waiting in memory."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

AHEAD: Final = 4  # results that may wait for each thread

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(work: Callable[[Item], Result], items: Iterable[Item], *, threads: int) -> Iterator[Result]:
    """Yield what `work` answers for each item; an exception is raised where its result would come."""
    with ThreadPoolExecutor(threads, thread_name_prefix=getattr(work, "__name__", "work")) as pool:
        waiting: deque[Future[Result]] = deque()
        source = iter(items)
        try:
            waiting.extend(pool.submit(work, item) for item in itertools.islice(source, AHEAD * threads))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in itertools.islice(source, 1))
        finally:
            for future in waiting:
                future.cancel()
