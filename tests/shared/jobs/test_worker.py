"""The child's side: every way in which an attempt can end, as a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.contextvars import get_contextvars

from shared.errors import UnavailableError
from shared.jobs import worker as worker_module
from shared.jobs.context import JobContext
from shared.jobs.executor import EXIT_INTERRUPTED, PARENT_VARIABLE
from shared.jobs.records import JobStore
from shared.jobs.worker import EXIT_LOST, EXIT_SETTLED, EXIT_USAGE, run_attempt
from shared.settings import Settings
from shared.telemetry import bound_context, current_trace_id
from tests.shared.jobs.fake_worker import CANARY

Environment = dict[str, str]
Spawn = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def spawn(store: JobStore, child_environment: Environment) -> Spawn:
    """Claims a new job and starts the worker module for it, as the executor does."""

    def start(kind: str, *, claim: bool = True, parent: int | None = None) -> subprocess.Popen[str]:
        store.create(job_id="job_1", kind=kind, spec={"prompt": CANARY}, trace_id="a" * 32)
        if claim:
            assert store.claim(kinds=[kind], owner="test") is not None
        environment = os.environ | child_environment | {PARENT_VARIABLE: str(parent or os.getpid())}
        command = [sys.executable, "-m", "tests.shared.jobs.fake_worker", "job_1"]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    return start


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, logs = process.communicate(timeout=60)
    return process.returncode, logs


def test_successful_job_is_settled_with_result_and_progress(store: JobStore, spawn: Spawn) -> None:
    assert finish(spawn("quick"))[0] == 0
    job = store.get("job_1")
    assert (job.state, job.result, job.step, job.reported) == ("succeeded", {"attempt": 1, "threads": "1"}, 1, {"loss": 0.5})


def test_named_error_becomes_a_problem_of_the_record(store: JobStore, spawn: Spawn) -> None:
    assert finish(spawn("refused"))[0] == 0
    job = store.get("job_1")
    assert job.state == "failed"
    assert job.problem is not None
    assert job.problem["type"] == "urn:lethe:problem:validation"
    assert job.problem["detail"] == "train.csv, row 3: the column Sex is missing."
    assert job.problem["trace_id"] == "a" * 32


def test_defect_is_told_by_trace_id_and_the_prompt_stays_out_of_record_and_logs(store: JobStore, spawn: Spawn) -> None:
    code, logs = finish(spawn("defect"))
    job = store.get("job_1")
    assert code == 0
    assert job.problem == {"type": "urn:lethe:problem:internal", "title": "A defect in Lethe", "status": 500, "trace_id": "a" * 32}
    assert job.message == "about to fail"
    lines = [json.loads(line) for line in logs.splitlines()]
    assert lines[-1]["exception"][0]["type"] == "builtins.ValueError"
    assert (lines[-1]["job_id"], lines[-1]["trace_id"], lines[-1]["service"]) == ("job_1", "a" * 32, "fake")
    assert CANARY not in logs
    assert CANARY not in json.dumps([event.data for event in store.events_since("job_1")])


def test_result_that_is_no_json_fails_as_a_defect(store: JobStore, spawn: Spawn) -> None:
    assert finish(spawn("not_a_number"))[0] == 0
    job = store.get("job_1")
    assert (job.state, job.reported) == ("failed", {"loss": None})


def test_cancelled_job_stops_and_says_so(store: JobStore, spawn: Spawn, eventually: Callable[..., None]) -> None:
    process = spawn("steps")
    eventually(lambda: store.get("job_1").step > 0)
    store.request_cancel("job_1")
    assert finish(process)[0] == 0
    job = store.get("job_1")
    assert job.state == "cancelled"
    assert 0 < job.step < 2000


def test_sigterm_interrupts_and_leaves_the_record_to_the_parent(store: JobStore, spawn: Spawn, eventually: Callable[..., None]) -> None:
    process = spawn("steps")
    eventually(lambda: store.get("job_1").step > 0)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == EXIT_INTERRUPTED
    assert store.get("job_1").state == "running"


def test_lost_job_leaves_the_record_to_the_parent_and_counts_as_a_loss(store: JobStore, spawn: Spawn) -> None:
    assert finish(spawn("lost"))[0] == EXIT_LOST
    assert store.get("job_1").state == "running"


def test_job_that_another_process_settled_stays_so(store: JobStore, spawn: Spawn) -> None:
    assert finish(spawn("settled_elsewhere"))[0] == 0
    assert store.get("job_1").result == {"by": "another"}


def test_job_that_is_not_claimed_is_not_run(store: JobStore, spawn: Spawn) -> None:
    assert finish(spawn("quick", claim=False))[0] == EXIT_USAGE
    assert store.get("job_1").state == "queued"


def test_child_whose_parent_is_gone_already_leaves_at_once(store: JobStore, spawn: Spawn, tmp_path: Path) -> None:
    assert finish(spawn("quick", parent=1))[0] == EXIT_INTERRUPTED
    assert store.get("job_1").state == "running"
    assert not (tmp_path / "marks").exists()


def test_call_without_a_job_id_is_refused(child_environment: Environment) -> None:
    done = subprocess.run([sys.executable, "-m", "tests.shared.jobs.fake_worker"], env=os.environ | child_environment, check=False)
    assert done.returncode == EXIT_USAGE


def test_database_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_DATABASE_RETRY_SECONDS", 0.01)
    answers = iter([UnavailableError("away"), UnavailableError("away"), "settled"])

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, UnavailableError):
            raise answer
        return answer

    assert worker_module.patiently(ask) == "settled"


def test_patience_with_the_database_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_DATABASE_PATIENCE_SECONDS", 0.0)

    def ask() -> str:
        raise UnavailableError("away")

    with pytest.raises(UnavailableError):
        worker_module.patiently(ask)


def test_attempt_leaves_the_log_context_as_it_was(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create(job_id="job_1", kind="quick", spec={}, trace_id=None)
    assert store.claim(kinds=["quick"], owner="test") is not None
    seen: list[str | None] = []

    def handler(_context: JobContext) -> dict[str, Any]:
        seen.append(current_trace_id())
        return {}

    monkeypatch.setattr(signal, "signal", lambda _number, _handler: None)
    with bound_context(request_id="r"):
        before = dict(get_contextvars())
        assert run_attempt("job_1", store=store, settings=Settings(), handlers={"quick": handler}) == EXIT_SETTLED
        assert get_contextvars() == before
    assert seen == [None]
