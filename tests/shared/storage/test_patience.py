"""A patient store: asks again while the store is away, up to a limit, and listens meanwhile."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from shared.errors import JobCancelledError, NotFoundError, UnavailableError
from shared.storage import DirectoryStore
from shared.storage import patience as patience_module
from shared.storage.patience import PatientStore

if TYPE_CHECKING:
    from pathlib import Path


class Flaky:
    """A store that is away for its first calls."""

    def __init__(self, store: DirectoryStore, away: int) -> None:
        self.store = store
        self.away = away
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)

        def call(**words: Any) -> Any:
            self.calls += 1
            if self.calls <= self.away:
                raise UnavailableError("away")
            return method(**words)

        return call


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience_module, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(patience_module, "LONGEST_PAUSE_SECONDS", 0.004)


def patient(tmp_path: Path, away: int, seconds: float = 30, check: Any = lambda: None) -> tuple[PatientStore, Flaky]:
    flaky: Any = Flaky(DirectoryStore(tmp_path / "store"), away)
    return PatientStore(flaky, limit=timedelta(seconds=seconds), check=check), flaky


def test_every_operation_outlives_an_absence(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content")
    operations: list[Any] = [
        lambda store: store.put(key="a/b", data=b"1").size_bytes,
        lambda store: store.put_file(key="a/c", path=source).size_bytes,
        lambda store: store.get(key="a/b"),
        lambda store: store.get_file(key="a/c", path=tmp_path / "target").size_bytes,
        lambda store: store.stat(key="a/c").size_bytes,
        lambda store: store.exists(key="a/b"),
        lambda store: [found.key for found in store.list(prefix="a/", limit=1)],
        lambda store: store.list_kept(prefix="a/", limit=1),
        lambda store: store.list_folders(prefix=""),
        lambda store: store.delete(key="a/b"),
        lambda store: store.probe()["read_back"],
    ]
    answers = []
    for operation in operations:
        store, flaky = patient(tmp_path, away=3)
        answers.append(operation(store))
        assert flaky.calls == 4
    assert answers == [1, 7, b"1", 7, 7, True, ["a/b"], ["a/b"], ["a"], None, True]
    assert (tmp_path / "target").read_bytes() == b"content"


def test_store_that_stays_away_is_given_up_after_the_limit(tmp_path: Path) -> None:
    store, flaky = patient(tmp_path, away=10**9, seconds=0.05)
    started = time.monotonic()
    with pytest.raises(UnavailableError):
        store.get(key="a")
    assert time.monotonic() - started < 5
    assert flaky.calls > 3


def test_pauses_grow_up_to_the_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(patience_module.time, "sleep", pauses.append)
    patient(tmp_path, away=5)[0].exists(key="a")
    assert pauses == [0.001, 0.002, 0.004, 0.004, 0.004]


def test_other_errors_are_not_asked_about_again(tmp_path: Path) -> None:
    store, flaky = patient(tmp_path, away=0)
    with pytest.raises(NotFoundError):
        store.get(key="a")
    assert flaky.calls == 1


def test_cancellation_is_heard_while_waiting(tmp_path: Path) -> None:
    def cancelled() -> None:
        raise JobCancelledError

    store, flaky = patient(tmp_path, away=10**9, check=cancelled)
    with pytest.raises(JobCancelledError):
        store.get(key="a")
    assert flaky.calls == 1


def test_closing_goes_through(tmp_path: Path) -> None:
    store, flaky = patient(tmp_path, away=0)
    store.close()
    assert flaky.calls == 1
