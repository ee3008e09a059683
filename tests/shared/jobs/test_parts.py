"""Parts of a job: claimed once, run when there is a place, settled whatever happens to their processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shared.errors import JobCancelledError, NotFoundError
from shared.jobs.context import JobContext
from shared.jobs.executor import EXIT_INTERRUPTED, Capacity, Executor
from shared.jobs.parts import Parts, opened_executor, settle_parts
from shared.jobs.process_executor import ProcessExecutor
from shared.jobs.records import MAX_LOSSES, JobStore
from shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.jobs.records import Job


class Scripted(Executor):
    """Does what a test says when a part is submitted, and ends with the code that it answers."""

    name = "scripted"

    def __init__(self, script: Callable[[str], int]) -> None:
        self.script = script
        self.codes: dict[str, int] = {}

    def submit(self, job_id: str) -> int:
        self.codes[job_id] = self.script(job_id)
        return 0

    def poll(self, job_id: str) -> int | None:
        return self.codes.pop(job_id)

    def cancel(self, job_id: str, *, grace: timedelta) -> None:
        """It has ended."""

    def capacity(self) -> Capacity:
        return Capacity(slots=1, busy=len(self.codes))

    def close(self, *, grace: timedelta) -> dict[str, int]:  # noqa: ARG002 - as the protocol has it
        return {}


@pytest.fixture
def whole(store: JobStore, tmp_path: Path) -> JobContext:
    store.create(job_id="job_1", kind="whole", spec={}, trace_id="t" * 32)
    job = store.claim(kinds=["whole"], owner="test")
    assert job is not None
    return JobContext(job=job, store=store, settings=Settings(home=tmp_path))


def parts_of(whole: JobContext, store: JobStore, executor: Executor, tell: Callable[[Sequence[Job]], None] = lambda _jobs: None) -> Parts:
    return Parts(whole, store, executor, kind="steps", at_once=2, tell=tell)


def test_part_is_made_once_and_taken_back_from_an_older_attempt_without_a_loss(whole: JobContext, store: JobStore) -> None:
    first, second = (parts_of(whole, store, Scripted(lambda _job: 0)) for _ in range(2))
    made = first.claim("job_1-a", {"n": 1})
    assert (made.kind, made.spec, made.state, made.attempt, made.trace_id) == ("steps", {"n": 1}, "running", 1, "t" * 32)
    taken = second.claim("job_1-a", {"n": 2})
    assert (taken.spec, taken.state, taken.attempt, taken.losses) == ({"n": 1}, "running", 2, 0)
    assert taken.lease_owner != made.lease_owner
    store.succeed(job_id="job_1-a", attempt=2, result={"done": True})
    assert first.claim("job_1-a", {}).result == {"done": True}


def test_part_that_an_older_attempt_makes_meanwhile_is_taken_over(
    whole: JobContext, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = store.get

    def gets(job_id: str) -> Job:
        monkeypatch.setattr(store, "get", get)
        store.create(job_id=job_id, kind="steps", spec={"n": 1})
        raise NotFoundError("It was not there when it was asked for.")

    monkeypatch.setattr(store, "get", gets)
    claimed = parts_of(whole, store, Scripted(lambda _job: 0)).claim("job_1-a", {"n": 2})
    assert (claimed.spec, claimed.state, claimed.attempt) == ({"n": 1}, "running", 1)


def test_parts_end_settled_or_wait_again_and_a_loss_is_counted(whole: JobContext, store: JobStore) -> None:
    def script(job_id: str) -> int:
        if job_id == "job_1-good":
            store.succeed(job_id=job_id, attempt=store.get(job_id).attempt, result={})
            return 0
        return EXIT_INTERRUPTED if job_id == "job_1-told" else -signal.SIGKILL

    parts = parts_of(whole, store, Scripted(script))
    names = ["job_1-good", "job_1-told", "job_1-dead"]
    ended = list(parts.run([parts.claim(name, {}).id for name in names]))
    assert [(job.id, job.state, job.losses) for job in ended] == [
        ("job_1-good", "succeeded", 0),
        ("job_1-told", "queued", 0),
        ("job_1-dead", "queued", 1),
    ]
    for losses in range(2, MAX_LOSSES + 1):
        (job,) = parts.run([parts.claim("job_1-dead", {}).id])
        assert job.losses == losses
    assert job.state == "failed"
    assert job.problem is not None
    assert "ended 3 times" in job.problem["detail"]


def test_next_part_may_depend_on_how_the_one_before_ended(whole: JobContext, store: JobStore) -> None:
    def script(job_id: str) -> int:
        store.succeed(job_id=job_id, attempt=1, result={"n": store.get(job_id).spec["n"] + 1})
        return 0

    parts = parts_of(whole, store, Scripted(script))
    results: list[int] = [0]

    def asked() -> Iterator[str]:
        while results[-1] < 3:
            yield parts.claim(f"job_1-{len(results)}", {"n": results[-1]}).id

    for job in parts.run(asked()):
        results.append((job.result or {})["n"])  # noqa: PERF401 - the next part is asked for in between
    assert results == [0, 1, 2, 3]


def test_cancellation_reaches_parts_that_run_and_those_that_only_wait(
    whole: JobContext, store: JobStore, executors: Callable[[int], ProcessExecutor], tmp_path: Path
) -> None:
    """Real processes, which look at their flags; two of three have a place."""
    told: list[set[str]] = []
    parts = parts_of(whole, store, executors(2), lambda jobs: told.append({job.id for job in jobs}))
    names = [parts.claim(f"job_1-{letter}", {"steps": 100_000}).id for letter in "abc"]
    marks = [tmp_path / "marks" / name / "attempt-1" for name in names[:2]]
    look = whole.check_cancelled

    def looks() -> None:
        if told and all(mark.exists() for mark in marks):
            whole._cancelled.set()
        look()

    whole.check_cancelled = looks  # type: ignore[method-assign]
    with pytest.raises(JobCancelledError):
        list(parts.run(names))
    assert [store.get(name).state for name in names] == ["cancelled"] * 3
    assert told[-1] <= set(names[:2])


def test_checkpoint_of_a_part_forgets_the_losses_of_the_whole(whole: JobContext, store: JobStore) -> None:
    def script(job_id: str) -> int:
        attempt = store.get(job_id).attempt
        store.report(job_id=job_id, attempt=attempt, step=1, total=2, message="", reported={"checkpoint_step": 1})
        return 0

    class Slow(Scripted):
        looks = 0

        def poll(self, job_id: str) -> int | None:
            self.looks += 1
            return None if self.looks == 1 else super().poll(job_id)

    parts = parts_of(whole, store, Slow(script))
    list(parts.run([parts.claim("job_1-a", {}).id]))
    assert whole._safe.is_set()


def test_parts_of_other_jobs_are_left_alone(store: JobStore) -> None:
    for number in (1, 2):
        for letter in "ab":
            store.create(job_id=f"job_{number}-{letter}", kind="part", spec={"of": f"job_{number}"})
        store.claim_this(f"job_{number}-a", owner="test")
    settle_parts(store, kind="part", whole="of", ended={"job_1"})
    states = {job.id: job.state for job in store.list(kinds=["part"])}
    assert states == {"job_1-a": "cancelled", "job_1-b": "cancelled", "job_2-a": "running", "job_2-b": "queued"}


def test_parts_one_after_another_need_no_place_on_a_cluster(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, ray_address="head:6379", job_slots=5)
    with opened_executor(settings, 1, worker_module="any") as executor:
        assert isinstance(executor, ProcessExecutor)
        assert executor.capacity().slots == 1
    with opened_executor(Settings(home=tmp_path), 3, worker_module="any") as executor:
        assert executor.capacity().slots == 3
    with pytest.raises(ValueError, match="LETHE_RAY_ADDRESS"), opened_executor(settings, 2, worker_module="any"):
        pass
