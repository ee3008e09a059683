"""Rungs in the store: each trial's in order, and the others' at the same step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.trainer.search.rung_files import JudgedRung, RungFiles
from services.trainer.search.trial import Rung
from shared.storage import DirectoryStore

if TYPE_CHECKING:
    from pathlib import Path


def judged(step: int, value: float, *, goes_on: bool = True) -> JudgedRung:
    rung = Rung(step=step, values={"fid": {"value": value, "low": value - 1, "high": value + 1, "n": 3}})
    return JudgedRung(rung=rung, goes_on=goes_on, trainable_parameters=7, trainable_fraction=0.25, seconds=1.5)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


def test_rungs_of_a_trial_come_in_the_order_of_their_steps(store: DirectoryStore) -> None:
    files = RungFiles(store, "job_1")
    kept = [judged(9, 3.0), judged(100, 2.0, goes_on=False)]
    for each in reversed(kept):
        files.keep(11, each)
    files.keep(1, judged(9, 5.0))
    assert files.of(11) == kept
    assert [each.rung.step for each in files.of(1)] == [9]
    assert files.of(2) == []


def test_others_are_those_of_the_same_search_at_the_same_step(store: DirectoryStore) -> None:
    files = RungFiles(store, "job_1")
    for number in (10, 2, 3):
        files.keep(number, judged(9, float(number)))
    files.keep(4, judged(90, 4.0))
    RungFiles(store, "job_2").keep(5, judged(9, 5.0))
    store.put(key="searches/job_1/trials/6/notes.json", data=b"{}")
    assert [rung.values["fid"]["value"] for rung in files.of_others(3, 9)] == [2.0, 10.0]


def test_more_rungs_than_one_listing_answers_are_all_found(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = store.list
    monkeypatch.setattr(store, "list", lambda *, prefix, start_after="": listed(prefix=prefix, start_after=start_after, limit=2))
    files = RungFiles(store, "job_1")
    for number in range(5):
        files.keep(number, judged(9, float(number)))
    assert len(files.of_others(0, 9)) == 4
