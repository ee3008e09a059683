"""A worker whose jobs do what tests need: end, wait, fail, die."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from shared.errors import DatasetError
from shared.jobs.context import JobContext, JobLostError, JobSettledError
from shared.jobs.worker import run_worker
from shared.storage import open_store

CANARY = "canary-prompt-51c9"


def quick(context: JobContext) -> dict[str, Any]:
    """Report once and end."""
    _note_run(context)
    context.report(1, 1, "done", loss=0.5)
    return {"attempt": context.attempt, "threads": os.environ.get("OMP_NUM_THREADS", "")}


def steps(context: JobContext) -> dict[str, Any]:
    """Many small steps, each of which may be the last."""
    _note_run(context)
    total = context.spec.get("steps", 2000)
    for step in range(1, total + 1):
        context.check_cancelled()
        context.report(step, total, "stepping", loss=1 / step, step_seconds=0.02)
        time.sleep(context.spec.get("seconds", 0.02))
    return {"steps": total}


def alone(context: JobContext) -> dict[str, Any]:
    """Work for a moment, with a mark that only one process can hold; meeting the mark of a living one is a defect."""
    mark, mine = _folder(context) / "running", _folder(context) / f"running-{context.attempt}"
    mine.write_text(str(os.getpid()))
    try:
        mark.hardlink_to(mine)
    except FileExistsError:
        if _is_alive(int(mark.read_text())):
            raise
        mine.replace(mark)
    _note_run(context)
    for _ in range(10):
        context.check_cancelled()
        time.sleep(0.05)
    mark.unlink()
    return {"attempt": context.attempt}


def kept(context: JobContext) -> dict[str, Any]:
    """Steps with a checkpoint in the object store after each tenth; a later attempt goes on from the last one."""
    _note_run(context)
    total = context.spec["steps"]
    store = open_store(context.settings)
    prefix = f"checkpoints/{context.id}/"
    found = store.list(prefix=prefix)
    first = int(found[-1].key.removeprefix(prefix)) if found else 0
    for step in range(first + 1, total + 1):
        context.check_cancelled()
        context.report(step, total, "stepping")
        time.sleep(0.02)
        if step % 10 == 0:
            store.put(key=f"{prefix}{step:06}", data=b"state", if_absent=True)
    store.close()
    return {"from": first}


def stubborn(context: JobContext) -> dict[str, Any]:
    """Never look at the flag, ignore SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _note_run(context)
    time.sleep(300)
    return {}


def with_grandchild(context: JobContext) -> dict[str, Any]:
    """Start a process of its own that never ends."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    (_folder(context) / "grandchild").write_text(str(process.pid))
    return {}


def dies(context: JobContext) -> dict[str, Any]:
    """Be killed, as the kernel does when memory runs out."""
    _note_run(context)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def refused(_context: JobContext) -> dict[str, Any]:
    """Meet a data set that cannot be used."""
    raise DatasetError("train.csv, row 3: the column Sex is missing.", field="source.csv")


def lost(_context: JobContext) -> dict[str, Any]:
    """Lose what the work ran on."""
    raise JobLostError("A rank died.")


def settled_elsewhere(context: JobContext) -> dict[str, Any]:
    """Let another process of the attempt settle the job."""
    context._store.succeed(job_id=context.id, attempt=context.attempt, result={"by": "another"})
    raise JobSettledError


def defect(context: JobContext) -> dict[str, Any]:
    """Fail in a way nobody foresaw, with a prompt in the message."""
    context.report(1, 2, "about to fail")
    raise ValueError(CANARY)


def not_a_number(context: JobContext) -> dict[str, Any]:
    """Diverge."""
    context.report(1, 1, "diverged", loss=math.nan)
    return {"loss": math.nan}


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in {"Z", "X"}
    except FileNotFoundError:
        return False


def _folder(context: JobContext) -> Path:
    """Where this job leaves its marks."""
    folder = context.settings.home / "marks" / context.id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _note_run(context: JobContext) -> None:
    """Leave a file named by attempt, holding the process id."""
    note = _folder(context) / f"attempt-{context.attempt}"
    partial = note.with_suffix(".partial")
    partial.write_text(str(os.getpid()))
    partial.rename(note)


if __name__ == "__main__":
    known = (quick, steps, alone, kept, stubborn, with_grandchild, dies, refused, lost, settled_elsewhere, defect, not_a_number)
    sys.exit(run_worker("fake", {handler.__name__: handler for handler in known}))
