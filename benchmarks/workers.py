"""Processes of one thread each, for benchmarks whose units of work do not depend on one another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

import torch


@contextmanager
def one_thread_workers(count: int) -> Iterator[Executor]:
    """So many of them; when something fails, nothing new begins, and what runs ends first."""
    # Threads that spin while they wait would slow the other worker down; one thread a worker keeps the bits the same everywhere.
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
