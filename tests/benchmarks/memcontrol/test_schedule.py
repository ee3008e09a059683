"""Tasks wait for what they need, are done once, and a failure ends the run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from benchmarks.memcontrol import schedule
from benchmarks.memcontrol.contenders import CONTENDERS, OURS
from benchmarks.memcontrol.regime import QUICK
from benchmarks.memcontrol.schedule import Task, tasks_of, work
from tests.benchmarks.memcontrol.made_up import BY_NAME

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done, in its order; doing it makes its file."""
    order: list[str] = []

    def run(task: Task) -> float:
        assert all(path.is_file() for path in task.after)
        order.append(task.name)
        task.path.parent.mkdir(parents=True, exist_ok=True)
        task.path.touch()
        return 1.0

    monkeypatch.setattr(schedule, "one_thread_workers", ThreadPoolExecutor)
    monkeypatch.setattr(schedule, "run_task", run)
    return order


def test_everything_is_done_once_after_what_it_needs(tmp_path: Path, done: list[str]) -> None:
    tasks = tasks_of(CONTENDERS, [0, 4], QUICK, tmp_path)
    assert len({task.path for task in tasks}) == len(tasks) == 2 * (2 + 10 + 10 + 7)
    work(tasks, 2)
    assert sorted(done) == sorted(task.name for task in tasks)
    work(tasks, 2)
    assert len(done) == len(tasks)


def test_other_searches_are_not_taken_to_the_other_site(tmp_path: Path) -> None:
    names = [task.name for task in tasks_of([OURS, BY_NAME["NSGA-II"], BY_NAME["full"]], [0], QUICK, tmp_path)]
    assert [name for name in names if "transferred" in name] == ["seed 0: ours, transferred", "seed 0: full, transferred"]


def test_stopped_run_goes_on_with_what_is_left(tmp_path: Path, done: list[str]) -> None:
    tasks = tasks_of([OURS], [0], QUICK, tmp_path)
    for task in tasks[:3]:
        task.path.parent.mkdir(parents=True, exist_ok=True)
        task.path.touch()
    work(tasks, 1)
    assert sorted(done) == sorted(task.name for task in tasks[3:])


def test_failure_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_task: Task) -> float:
        raise RuntimeError("out of paper")

    monkeypatch.setattr(schedule, "one_thread_workers", ThreadPoolExecutor)
    monkeypatch.setattr(schedule, "run_task", fail)
    with pytest.raises(RuntimeError, match="out of paper"):
        work(tasks_of([OURS], [0], QUICK, tmp_path), 1)
