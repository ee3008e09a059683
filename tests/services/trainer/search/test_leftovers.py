"""What trials leave behind goes when nothing needs it any more, and not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.trainer.search.leftovers import Leftovers
from services.trainer.search.trial_spec import trial_job_id
from shared.jobs.records import JobStore
from shared.settings import Settings
from shared.storage import DirectoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def records(tmp_path: Path) -> Iterator[JobStore]:
    opened = JobStore.open(Settings(home=tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


def begin(records: JobStore, store: DirectoryStore, search: str, number: int, *, is_over: bool, kind: str = "trial") -> str:
    """A job called as a trial's is, with a checkpoint and curves; answers its id."""
    job_id = trial_job_id(search, number)
    records.create(job_id=job_id, kind=kind, spec={"search": search})
    records.claim_this(job_id, owner="test")
    if is_over:
        records.succeed(job_id=job_id, attempt=1, result={})
    for name in ("3/manifest.json", "3/run.safetensors", "losses.json"):
        store.put(key=f"checkpoints/{job_id}/{name}", data=b"{}")
    return job_id


def kept(store: DirectoryStore, job_id: str) -> list[str]:
    prefix = f"checkpoints/{job_id}/"
    return [found.key.removeprefix(prefix) for found in store.list(prefix=prefix)]


ALL = ["3/manifest.json", "3/run.safetensors", "losses.json"]


def test_trials_that_are_over_go_in_part_and_those_of_searches_that_are_over_whole(
    records: JobStore, store: DirectoryStore, tmp_path: Path
) -> None:
    for search in ("job_1", "job_12", "job_3"):
        records.create(job_id=search, kind="search", spec={})
        records.claim_this(search, owner="test")
    records.succeed(job_id="job_1", attempt=1, result={})
    records.fail(job_id="job_3", attempt=1, problem={"title": "no", "status": 500})
    of_the_past = begin(records, store, "job_1", 0, is_over=True)
    over, running = (begin(records, store, "job_12", number, is_over=number == 0) for number in (0, 1))
    left_running = begin(records, store, "job_3", 0, is_over=False)
    training = begin(records, store, "job_9", 0, is_over=True, kind="training")
    forgotten = trial_job_id("job_1", 1)  # whose process wrote on when its record had gone
    store.put(key=f"checkpoints/{forgotten}/4/manifest.json", data=b"{}")
    Leftovers(records, store, tmp_path / "scratch").clear_away({"job_3"})
    assert [kept(store, job_id) for job_id in (of_the_past, forgotten, left_running)] == [[], [], []]
    assert kept(store, over) == ["losses.json"]
    assert (kept(store, running), kept(store, training)) == (ALL, ALL)
    assert [job.id for job in records.beginning_with("job_", kind="trial")] == [over, running]


def test_trials_of_a_search_that_is_not_settled_yet_keep_their_records(records: JobStore, store: DirectoryStore, tmp_path: Path) -> None:
    records.create(job_id="job_1", kind="search", spec={})
    trial = begin(records, store, "job_1", 0, is_over=False)
    Leftovers(records, store, tmp_path / "scratch").clear_away({"job_1"})
    assert (records.get(trial).state, kept(store, trial)) == ("cancelled", ["losses.json"])
