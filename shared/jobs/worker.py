"""The child's side of a job: `python -m services.trainer.worker JOB_ID` runs one attempt and settles the record."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from shared.errors import JobCancelledError, LetheError, UnavailableError
from shared.jobs.context import JobContext, JobInterruptedError, JobLostError, JobSettledError
from shared.jobs.executor import EXIT_INTERRUPTED, PARENT_VARIABLE
from shared.jobs.failures import failure_of
from shared.jobs.records import Job, JobStore
from shared.settings import Settings, get_settings
from shared.telemetry import bound_context, configure_logging, exporting, get_logger, span

Handler = Callable[[JobContext], dict[str, Any]]
Handlers = Mapping[str, Handler]
AnswerT = TypeVar("AnswerT")

EXIT_SETTLED = 0
EXIT_USAGE = 64
# What the attempt depended on died (EX_SOFTWARE of sysexits.h); the runner counts a loss, as if the worker had died itself.
EXIT_LOST = 70
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# A database that restarts is back in seconds, one that fails over in a minute or two; a day of training is worth waiting for it.
_DATABASE_PATIENCE_SECONDS = 600.0
_DATABASE_RETRY_SECONDS = 0.5

_LOG = get_logger(__name__)


def run_worker(service: str, handlers: Handlers, arguments: Sequence[str] | None = None) -> int:
    """Run the job named on the command line; answers the exit code for `sys.exit`."""
    die_with_parent()
    configure_logging(service)
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1:
        _LOG.error("usage: python -m WORKER_MODULE JOB_ID")
        return EXIT_USAGE
    settings = get_settings()
    store = JobStore(settings.sql_url)
    try:
        with exporting(service, settings.otlp_endpoint):
            return run_attempt(given[0], store=store, settings=settings, handlers=handlers)
    finally:
        store.close()


def die_with_parent() -> None:
    """End this process as soon as its parent does, or at once if the parent is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None and parent != str(os.getppid()):
        sys.exit(EXIT_INTERRUPTED)


def run_attempt(job_id: str, *, store: JobStore, settings: Settings, handlers: Handlers) -> int:
    """Run one attempt at a claimed job and settle its record; answers the exit code that tells the runner what happened."""
    job = patiently(lambda: store.get(job_id))
    with bound_context(**job.log_values), span(f"job {job.kind}", kind="consumer", attempt=job.attempt):
        return _run(job, store=store, settings=settings, handlers=handlers)


def _run(job: Job, *, store: JobStore, settings: Settings, handlers: Handlers) -> int:
    """The attempt itself, every line of its log naming the job."""
    if job.state != "running" or job.kind not in handlers:
        _LOG.error("job cannot be run here", state=job.state, kind=job.kind)
        return EXIT_USAGE
    context = JobContext(job=job, store=store, settings=settings)
    signal.signal(signal.SIGTERM, lambda _number, _frame: context.interrupt())
    try:
        with context.exchanging():
            context.check_cancelled()
            result = handlers[job.kind](context)
        json.dumps(result, allow_nan=False)
    except JobInterruptedError:
        _LOG.info("job interrupted")
        return EXIT_INTERRUPTED
    except JobSettledError:
        return EXIT_SETTLED
    except JobLostError as error:
        _LOG.warning("job lost", exc_info=error)
        return EXIT_LOST
    except JobCancelledError:
        settled = patiently(lambda: store.cancelled(job_id=job.id, attempt=job.attempt))
    except LetheError as error:
        _LOG.warning("job failed", exc_info=error)
        settled = _fail(job, error, store=store)
    except Exception as error:  # noqa: BLE001 - whatever it was, the record must say that the job ended
        _LOG.exception("job failed by a defect")
        settled = _fail(job, error, store=store)
    else:
        settled = patiently(lambda: store.succeed(job_id=job.id, attempt=job.attempt, result=result))
    if not settled:
        _LOG.warning("job was taken over by another attempt; its outcome is dropped")
    return EXIT_SETTLED


def _fail(job: Job, error: Exception, *, store: JobStore) -> bool:
    """Settle the job with the problem of an error; False when this attempt no longer holds it."""
    problem = failure_of(error, trace_id=job.trace_id)
    return patiently(lambda: store.fail(job_id=job.id, attempt=job.attempt, problem=problem))


def patiently(ask: Callable[[], AnswerT]) -> AnswerT:
    """Ask the database until it answers: its restart must cost no job the outcome."""
    deadline = time.monotonic() + _DATABASE_PATIENCE_SECONDS
    while True:
        try:
            return ask()
        except UnavailableError as error:
            if time.monotonic() >= deadline:
                raise
            _LOG.warning("job database away, asked again", exc_info=error)
            time.sleep(_DATABASE_RETRY_SECONDS)
