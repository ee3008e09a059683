"""Which tasks there are, what each waits for, and having them all done by several processes of one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.memcontrol.again import judge, judged_path, transfer, transferred
from benchmarks.memcontrol.contenders import Contender
from benchmarks.memcontrol.course import course_path, run_course
from benchmarks.memcontrol.regime import Regime
from benchmarks.memcontrol.site import SEARCHED, TRANSFERRED, Site, make_material
from benchmarks.workers import one_thread_workers


@dataclass(frozen=True)
class Task:
    """Something to do once; it is done when its file is there."""

    name: str
    path: Path
    run: Callable[..., Any]
    arguments: tuple[Any, ...]
    after: tuple[Path, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether an earlier run did it."""
        return self.path.is_file()


def tasks_of(contenders: Sequence[Contender], seeds: Iterable[int], regime: Regime, folder: Path) -> list[Task]:
    """Seed by seed, so that a run that is stopped leaves whole seeds behind."""
    return [task for seed in seeds for task in _of_seed(contenders, seed, regime, folder)]


def work(tasks: Sequence[Task], workers: int) -> None:
    """Do what is not done. A task that fails ends the run; what others finish meanwhile is kept."""
    waiting = [task for task in tasks if not task.is_done]
    if not waiting:
        return
    print(f"{len(waiting)} of {len(tasks)} tasks to do, {workers} at a time, one thread each", flush=True)
    with one_thread_workers(workers) as pool:
        _follow(pool, waiting)


def run_task(task: Task) -> float:
    """Do it; answers the seconds it took."""
    began = time.perf_counter()
    task.run(*task.arguments)
    return time.perf_counter() - began


def _of_seed(contenders: Sequence[Contender], seed: int, regime: Regime, folder: Path) -> list[Task]:
    here, there = (Site(anatomy, seed, regime, folder) for anatomy in (SEARCHED, TRANSFERRED))
    tasks = [
        Task(f"seed {seed}: {site.anatomy}'s films, gallery and base", site.facts_path, make_material, (site,)) for site in (here, there)
    ]
    for contender in contenders:
        course, name = course_path(here, contender), f"seed {seed}: {contender.name}"
        tasks.append(Task(name, course, run_course, (here, contender), (here.facts_path,)))
        tasks.append(Task(f"{name}, looked at again", judged_path(here, contender), judge, (here, contender), (course,)))
        if contender in transferred():
            after = (course, there.facts_path)
            tasks.append(Task(f"{name}, transferred", judged_path(there, contender), transfer, (here, there, contender), after))
    return tasks


def _follow(pool: Executor, waiting: list[Task]) -> None:
    """Hand out what waits for nothing any more, and say what is done."""
    began, count, done = time.perf_counter(), len(waiting), 0
    pending: dict[Future[float], Task] = {}
    while waiting or pending:
        ready = [task for task in waiting if all(path.is_file() for path in task.after)]
        waiting = [task for task in waiting if task not in ready]
        pending |= {pool.submit(run_task, task): task for task in ready}
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            task, seconds = pending.pop(future), future.result()
            done += 1
            passed = (time.perf_counter() - began) / 60
            print(f"[{done}/{count}, {passed:.1f} min] {task.name}: {seconds:.0f} s", flush=True)
