"""What handlers work with: reports that cost nothing, flags that arrive soon."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest

from shared.errors import JobCancelledError, UnavailableError
from shared.jobs.context import JobContext, JobInterruptedError, JobTakenOverError
from shared.jobs.records import JobStore
from shared.settings import Settings


@pytest.fixture
def context(store: JobStore) -> JobContext:
    store.create(job_id="job_1", kind="quick", spec={"n": 1}, trace_id="t" * 32)
    job = store.claim(kinds=["quick"], owner="test")
    assert job is not None
    return JobContext(job=job, store=store, settings=Settings())


def test_context_shows_the_job(context: JobContext) -> None:
    assert (context.id, context.kind, context.spec, context.attempt, context.trace_id) == ("job_1", "quick", {"n": 1}, 1, "t" * 32)


def test_siblings_that_ended_without_a_result_are_named(context: JobContext, store: JobStore) -> None:
    for job_id, kind in (("job_2", "quick"), ("job_3", "quick"), ("job_4", "quick"), ("job_5", "slow"), ("job_6", "quick")):
        store.create(job_id=job_id, kind=kind, spec={})
    store.request_cancel("job_2")
    store.request_cancel("job_5")
    for job_id in ("job_3", "job_4"):
        store.claim_this(job_id, owner="test")
    store.fail(job_id="job_3", attempt=1, problem={})
    store.succeed(job_id="job_4", attempt=1, result={})
    assert context.ended_siblings() == {"job_3": "failed", "job_2": "cancelled"}


def test_thousand_reports_are_few_writes_and_the_last_arrives(context: JobContext, store: JobStore) -> None:
    with context.exchanging():
        for step in range(1000):
            context.report(step, 1000, "going", loss=1 / (step + 1))
            time.sleep(0.0005)
        context.report(1000, 1000, "done", seconds=3.5)
    job = store.get("job_1")
    assert (job.step, job.total, job.message, job.reported) == (1000, 1000, "done", {"loss": 0.001, "seconds": 3.5})
    assert len(store.events_since("job_1")) <= 12


def test_report_returns_without_touching_the_database(context: JobContext) -> None:
    started = time.perf_counter()
    for step in range(1000):
        context.report(step, 1000, loss=0.5)
        context.check_cancelled()
    assert time.perf_counter() - started < 0.25


def test_value_that_json_does_not_know_becomes_null(context: JobContext, store: JobStore) -> None:
    with context.exchanging():
        context.report(1, 1, loss=math.nan, norm=np.float32(math.inf), rate=np.float32(0.5), images=np.int64(3), phase="ema")
    assert store.get("job_1").reported == {"loss": None, "norm": None, "rate": 0.5, "images": 3, "phase": "ema"}


def test_cancel_request_arrives_within_moments(context: JobContext, store: JobStore, eventually: Callable[..., None]) -> None:
    def is_cancelled() -> bool:
        try:
            context.check_cancelled()
        except JobCancelledError:
            return True
        return False

    with context.exchanging():
        context.check_cancelled()
        store.request_cancel("job_1")
        eventually(is_cancelled, 3)


def test_interrupt_is_told_apart_from_cancel(context: JobContext) -> None:
    context.interrupt()
    with pytest.raises(JobInterruptedError):
        context.check_cancelled()


def test_advance_reports_until_the_attempt_is_to_stop(context: JobContext, store: JobStore) -> None:
    with context.exchanging():
        context.advance(1, 9, "going on", loss=0.5)
    context.interrupt()
    with pytest.raises(JobInterruptedError):
        context.advance(2, 9, "too far")
    job = store.get(context.id)
    assert (job.step, job.total, job.message, job.reported) == (1, 9, "going on", {"loss": 0.5})


def test_job_that_was_taken_over_interrupts_the_old_attempt(context: JobContext, store: JobStore, eventually: Callable[..., None]) -> None:
    with context.exchanging():
        store.release(job_id="job_1", attempt=1, lost=True)
        store.claim(kinds=["quick"], owner="other")
        eventually(context._taken_over.is_set, 3)
        with pytest.raises(JobTakenOverError):
            context.check_cancelled()
    assert store.get("job_1").attempt == 2
    assert context.is_settled()


def test_progress_that_is_safe_begins_the_retry_budget_anew(store: JobStore, eventually: Callable[..., None]) -> None:
    store.create(job_id="job_1", kind="quick", spec={})
    for _ in range(2):
        job = store.claim(kinds=["quick"], owner="test")
        assert job is not None
        store.release(job_id="job_1", attempt=job.attempt, lost=True)
    job = store.claim(kinds=["quick"], owner="test")
    assert job is not None
    assert job.losses == 2
    context = JobContext(job=job, store=store, settings=Settings())
    with context.exchanging():
        assert not context.is_settled()
        context.note_safe()
        eventually(lambda: store.get("job_1").losses == 0, 3)


def test_progress_that_became_safe_last_is_told_on_leaving(context: JobContext, store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(store, "forget_losses", lambda **words: told.append(words["attempt"]))
    with context.exchanging():
        context.note_safe()
    assert told == [1]


def test_database_that_is_away_for_a_moment_loses_no_report(
    context: JobContext, store: JobStore, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    calls = []

    def away(**_values: object) -> None:
        calls.append(1)
        raise UnavailableError("away")

    with context.exchanging():
        with monkeypatch.context() as patch:
            patch.setattr(store, "report", away)
            context.report(1, 2, "kept")
            eventually(lambda: len(calls) >= 2, 5)
        eventually(lambda: store.get("job_1").message == "kept", 5)
