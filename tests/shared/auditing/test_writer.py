"""Events are committed together while requests wait, and the head is anchored."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from shared.auditing import Anchor, Anchors, AuditEvent, AuditLog, AuditWriter, ChainedEvent
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

    def note(head: ChainedEvent) -> Anchor:
        noted.append(head.sequence)
        if len(noted) == 1:
            raise UnavailableError("The store does not answer.")
        enough.set()
        return Anchor(head.sequence, head.hash)

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


def test_who_stops_waiting_stops_neither_the_event_nor_the_writer(log: AuditLog, anchors: Anchors, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(log, monkeypatch)

    async def give_up(writer: AuditWriter) -> None:
        under_way = asyncio.wrap_future(writer.write(make_event(images=1)))
        assert gate.entered.wait(PATIENCE)
        queued = asyncio.wrap_future(writer.write(make_event(images=2)))
        for waiting in (under_way, queued):
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        gate.open.set()
        await asyncio.wait_for(asyncio.wrap_future(writer.write(make_event(images=3))), PATIENCE)

    with AuditWriter(log, anchors).serving() as writer:
        asyncio.run(give_up(writer))
    assert [event.as_json()["event"]["images"] for event in log.read()] == [1, 2, 3]


def test_events_of_a_service_that_was_killed_are_anchored_by_another(log: AuditLog, anchors: Anchors) -> None:
    log.append([make_event(), make_event()])
    with AuditWriter(log, anchors, anchor_seconds=3600).serving():
        pass
    assert [anchor.sequence for anchor in anchors.read()] == [2]


def test_head_that_is_anchored_is_not_anchored_again(log: AuditLog, anchors: Anchors, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append([make_event()])
    anchors.write(log.newest(1)[0])
    monkeypatch.setattr(anchors, "write", lambda _head: pytest.fail("anchored again"))
    for _ in range(2):
        writer = AuditWriter(log, anchors)
        writer._try_to_anchor()
        writer._try_to_anchor(at_end=True)
        assert writer._anchored == next(anchors.read())


def test_services_share_one_anchor_an_interval(log: AuditLog, anchors: Anchors) -> None:
    first, second = AuditWriter(log, anchors), AuditWriter(log, anchors)
    for _ in range(5):
        for writer in (first, second):
            log.append([make_event()])
            writer._try_to_anchor()
    assert [anchor.sequence for anchor in anchors.read()] == [1, 2, 4, 6, 8, 10]
    log.append([make_event()])
    for _ in range(2):  # the second is gone, which the first notices an interval later
        first._try_to_anchor()
    assert [anchor.sequence for anchor in anchors.read()][-1] == 11


def test_service_that_stops_anchors_the_head_though_another_anchored_what_came_before(log: AuditLog, anchors: Anchors) -> None:
    first, second = AuditWriter(log, anchors), AuditWriter(log, anchors)
    for writer in (first, second):
        log.append([make_event()])
        writer._try_to_anchor()
    log.append([make_event()])
    first._try_to_anchor(at_end=True)
    assert [anchor.sequence for anchor in anchors.read()] == [1, 2, 3]


def test_head_that_is_not_genuine_is_not_anchored(log: AuditLog, anchors: Anchors, tamper: Callable[..., None]) -> None:
    log.append([make_event()])
    tamper("INSERT INTO audit_events VALUES (2, '{}', 'a', 'b')")
    before = counted("lethe_audit_anchor_failures_total")
    AuditWriter(log, anchors)._try_to_anchor()
    assert list(anchors.read()) == []
    assert counted("lethe_audit_anchor_failures_total") == before + 1
