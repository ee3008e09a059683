"""Verifying the audit log: every event genuine, every one in its place, none missing, and every anchor met."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from shared.auditing.anchors import Anchor, Anchors
from shared.auditing.chain import GENESIS, Chain
from shared.auditing.events import ChainedEvent
from shared.auditing.log import AuditLog


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, and the number of the event where it is."""

    sequence: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was looked at, and what is wrong."""

    events: int
    anchors: int
    findings: list[Finding]


def verify_log(log: AuditLog, anchors: Anchors, on_event: Callable[[], None] = lambda: None) -> Verification:
    """Look at the whole log; `on_event` is called after each event."""
    return verify(log.read(), anchors.read(), log.chain, on_event, events_after=log.read)


def verify(
    events: Iterable[ChainedEvent],
    anchors: Iterable[Anchor],
    chain: Chain,
    on_event: Callable[[], None] = lambda: None,
    *,
    events_after: Callable[[int], Iterable[ChainedEvent]] = lambda _sequence: (),
) -> Verification:
    """Look at events in the order of their numbers, and at anchors in the order of theirs; `events_after` reads what came meanwhile."""
    findings: list[Finding] = []
    walk = _Walk(chain, anchors)
    for event in events:
        findings += walk.look_at(event)
        on_event()
    walk.read_anchors()  # whose events were all committed before the log is read on
    for event in events_after(walk.sequence):
        findings += walk.look_at(event)
        on_event()
    findings += walk.end()
    return Verification(events=walk.events, anchors=walk.anchors, findings=findings)


class _Walk:
    """Where a verification is, and what the next event must look like."""

    def __init__(self, chain: Chain, anchors: Iterable[Anchor]) -> None:
        self._chain = chain
        self._unread = iter(anchors)
        self._ahead: deque[Anchor] = deque()
        self._hash = GENESIS
        self.sequence = 0
        self.events = 0
        self.anchors = 0

    def look_at(self, event: ChainedEvent) -> Iterator[Finding]:
        """What is wrong with one event, coming from the one before."""
        self.events += 1
        if event.sequence < 1:
            yield Finding(event.sequence, f"event {event.sequence} was inserted: the log begins with event 1")
            return
        expected = self.sequence + 1
        if event.sequence > expected:
            yield Finding(expected, _missing(expected, event.sequence - 1))
        if not self._chain.is_genuine(event):
            yield Finding(event.sequence, f"event {event.sequence} was altered, moved or inserted: its hash is not that of its content")
        elif event.sequence == expected and event.previous != self._hash:
            yield Finding(event.sequence, f"event {event.sequence} does not follow event {self.sequence} as that is now")
        if any(anchor.hash != event.hash for anchor in self._anchors_until(event.sequence) if anchor.sequence == event.sequence):
            yield Finding(event.sequence, f"event {event.sequence} is not the one that was anchored in the object store")
        self.sequence, self._hash = event.sequence, event.hash

    def read_anchors(self) -> None:
        """Read all anchors that are left: a handful, unless the log's end is missing."""
        while self._read_anchor():
            pass

    def end(self) -> Iterator[Finding]:
        """What is missing after the last event."""
        if self._ahead:
            first, last = self.sequence + 1, self._ahead[-1].sequence
            yield Finding(first, f"{_missing(first, last)} at the end of the log, which an anchor in the object store reached")

    def _anchors_until(self, sequence: int) -> list[Anchor]:
        """The anchors up to an event; those of missing ones say nothing that the gap does not."""
        passed = []
        while (self._ahead or self._read_anchor()) and self._ahead[0].sequence <= sequence:
            passed.append(self._ahead.popleft())
        return passed

    def _read_anchor(self) -> bool:
        """Read one more anchor; false after the last."""
        for anchor in self._unread:
            self._ahead.append(anchor)
            self.anchors += 1
            return True
        return False


def _missing(first: int, last: int) -> str:
    """Which events are not there."""
    return f"event {first} is missing" if first == last else f"events {first} to {last} are missing"
