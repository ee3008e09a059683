"""Events are committed together while requests wait, and the head is anchored."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from shared.auditing import Anchors, AuditEvent, AuditLog, AuditWriter, ChainedEvent
from shared.auditing import writer as writing
from shared.errors import SaturatedError, UnavailableError
from shared.storage import DirectoryStore
from tests.shared.auditing.conftest import make_event

PATIENCE = 60


@pytest.fixture
def anchors(tmp_path: Path) -> Anchors:
    return Anchors(DirectoryStore(tmp_path / "store"))


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


class Gate:
    """Stands before the log's `append`: shows what comes together, and lets it through or fails it."""

    def __init__(self, log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[int] = []
        self.entered = threading.Event()
        self.open = threading.Event()
        self.failure: Exception | None = None
        append = log.append

        def pass_through(events: Sequence[AuditEvent]) -> None:
            self.entered.set()
            assert self.open.wait(PATIENCE)
            self.batches.append(len(events))
            if self.failure is not None:
                raise self.failure
            append(events)

        monkeypatch.setattr(log, "append", pass_through)


def test_events_that_wait_are_committed_together(log: AuditLog, anchors: Anchors, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(log, monkeypatch)
    before = counted("lethe_audit_events_total", action="score", outcome="done")
    with AuditWriter(log, anchors).serving() as writer:
        first = writer.write(make_event(action="score"))
        assert gate.entered.wait(PATIENCE)
        others = [writer.write(make_event(action="score", images=number)) for number in range(5)]
        assert not any(written.done() for written in [first, *others])
        gate.open.set()
        for written in [first, *others]:
            written.result(PATIENCE)
    assert gate.batches == [1, 5]
    assert [event.as_json()["event"]["images"] for event in log.read()] == [0, 0, 1, 2, 3, 4]
    assert counted("lethe_audit_events_total", action="score", outcome="done") == before + 6


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (UnavailableError("The database does not answer; try again later."), "database does not answer"),
        (RuntimeError("patient 17"), "audit log cannot be written"),
    ],
)
def test_events_that_cannot_be_written_fail_their_requests(
    log: AuditLog, anchors: Anchors, monkeypatch: pytest.MonkeyPatch, failure: Exception, message: str
) -> None:
    gate = Gate(log, monkeypatch)
    gate.failure = failure
    gate.open.set()
    before = counted("lethe_audit_write_failures_total")
    with AuditWriter(log, anchors).serving() as writer:
        with pytest.raises(UnavailableError, match=message):
            writer.write(make_event()).result(PATIENCE)
        gate.failure = None
        writer.write(make_event()).result(PATIENCE)
    assert [event.sequence for event in log.read()] == [1]
    assert counted("lethe_audit_write_failures_total") == before + 1


def test_more_than_may_wait_is_refused(log: AuditLog, anchors: Anchors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_MOST_WAITING", 2)
    gate = Gate(log, monkeypatch)
    with AuditWriter(log, anchors).serving() as writer:
        writer.write(make_event())
        assert gate.entered.wait(PATIENCE)
        waiting = [writer.write(make_event()) for _ in range(2)]
        with pytest.raises(SaturatedError):
            writer.write(make_event())
        gate.open.set()
        for written in waiting:
            written.result(PATIENCE)
    assert len(list(log.read())) == 3


def test_writer_that_stops_commits_what_waits_and_anchors_the_head(
    log: AuditLog, anchors: Anchors, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(log, monkeypatch)
    with AuditWriter(log, anchors, anchor_seconds=3600).serving() as writer:
        writer.write(make_event())
        assert gate.entered.wait(PATIENCE)
        last = writer.write(make_event())
        gate.open.set()
    last.result(0)
    assert [anchor.sequence for anchor in anchors.read()] == [2]
    with pytest.raises(UnavailableError, match="stopping"):
        writer.write(make_event())


def test_head_is_anchored_while_serving_and_not_again(log: AuditLog, anchors: Anchors, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[int] = []
    enough = threading.Event()

    def note(head: ChainedEvent) -> None:
        noted.append(head.sequence)
        if len(noted) == 1:
            raise UnavailableError("The store does not answer.")
        enough.set()

    monkeypatch.setattr(anchors, "write", note)
    before = counted("lethe_audit_anchor_failures_total")
    with AuditWriter(log, anchors, anchor_seconds=0.01).serving() as writer:
        writer.write(make_event()).result(PATIENCE)
        assert enough.wait(PATIENCE)
    assert noted == [1, 1]
    assert counted("lethe_audit_anchor_failures_total") == before + 1


def test_event_that_was_committed_elsewhere_is_counted_and_anchored(log: AuditLog, anchors: Anchors) -> None:
    event = make_event(action="train")
    before = counted("lethe_audit_events_total", action="train", outcome="done")
    with AuditWriter(log, anchors).serving() as writer:
        log.append([event])
        writer.committed_elsewhere(event)
    assert counted("lethe_audit_events_total", action="train", outcome="done") == before + 1
    assert [anchor.sequence for anchor in anchors.read()] == [1]
