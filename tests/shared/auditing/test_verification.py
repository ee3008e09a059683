"""Whoever changes the log is found out, and the place is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.auditing import Anchor, Anchors, AuditLog, ChainedEvent, verify_log
from shared.auditing.chain import GENESIS, Chain
from shared.auditing.verification import verify
from shared.storage import DirectoryStore
from tests.shared.auditing.conftest import KEY, make_event

CHAIN = Chain(KEY)
Tamper = Callable[..., None]


def make_chain(length: int) -> list[ChainedEvent]:
    """A genuine log."""
    chained: list[ChainedEvent] = []
    for number in range(1, length + 1):
        previous = chained[-1].hash if chained else GENESIS
        chained.append(CHAIN.link(make_event(images=number), sequence=number, previous=previous))
    return chained


def found(events: list[ChainedEvent], anchors: list[Anchor] | None = None) -> list[tuple[int, str]]:
    """What a verification finds."""
    return [(finding.sequence, finding.what) for finding in verify(events, anchors or [], CHAIN).findings]


def first_found(events: list[ChainedEvent], anchors: list[Anchor]) -> int | None:
    """Where a verification finds something first."""
    return min((sequence for sequence, _ in found(events, anchors)), default=None)


def anchor_of(event: ChainedEvent) -> Anchor:
    return Anchor(event.sequence, event.hash)


def test_untouched_log_is_whole() -> None:
    events = make_chain(5)
    verification = verify(events, [anchor_of(events[1]), anchor_of(events[4])], CHAIN)
    assert (verification.events, verification.anchors, verification.findings) == (5, 2, [])
    assert found([]) == []


def test_removed_events_are_named() -> None:
    events = make_chain(6)
    assert found([*events[:1], *events[2:]]) == [(2, "event 2 is missing")]
    assert found(events[3:]) == [(1, "events 1 to 3 are missing")]


def test_tail_that_was_cut_off_is_missed_by_its_anchor() -> None:
    events = make_chain(6)
    cut = [(5, "events 5 to 6 are missing at the end of the log, which an anchor in the object store reached")]
    assert found(events[:4], [anchor_of(events[1]), anchor_of(events[5])]) == cut
    assert found([], [anchor_of(events[0])])[0][0] == 1


def test_altered_event_is_named() -> None:
    events = make_chain(3)
    events[1] = replace(events[1], content=events[1].content.replace("ward-a", "ward-b"))
    assert found(events) == [(2, "event 2 was altered, moved or inserted: its hash is not that of its content")]


def test_tail_that_somebody_with_the_key_wrote_anew_contradicts_its_anchor() -> None:
    events = make_chain(4)
    anchors = [anchor_of(events[3])]
    rewritten = make_chain(3)
    rewritten.append(CHAIN.link(make_event(images=99), sequence=4, previous=rewritten[-1].hash))
    assert found(rewritten, anchors) == [(4, "event 4 is not the one that was anchored in the object store")]


def test_event_of_another_genuine_log_does_not_follow() -> None:
    events = make_chain(4)
    other = CHAIN.link(make_event(images=77), sequence=2, previous=GENESIS)
    assert [sequence for sequence, _ in found([events[0], other, *events[2:]])] == [2, 3]


def test_event_before_the_first_is_no_event() -> None:
    events = make_chain(2)
    assert found([replace(events[0], sequence=0), *events]) == [(0, "event 0 was inserted: the log begins with event 1")]


CHANGES = ("remove", "alter", "swap", "insert", "cut", "copy to the end")


@given(st.data())
@settings(deadline=None)
def test_any_change_is_found_at_its_place(data: st.DataObject) -> None:
    events = make_chain(data.draw(st.integers(2, 12), label="length"))
    anchors = [anchor_of(events[-1])]
    place = data.draw(st.integers(0, len(events) - 1), label="place")
    change = data.draw(st.sampled_from(CHANGES), label="change")
    if change == "remove":
        del events[place]
    elif change == "alter":
        events[place] = replace(events[place], content=data.draw(st.text(max_size=40), label="content"))
    elif change == "swap":
        other = data.draw(st.integers(0, len(events) - 1).filter(lambda number: number != place), label="other")
        one, two = events[place], events[other]
        events[place], events[other] = replace(two, sequence=one.sequence), replace(one, sequence=two.sequence)
        place = min(place, other)
    elif change == "insert":
        made_up = Chain(bytes(32)).link(make_event(), sequence=place + 1, previous=events[place - 1].hash if place else GENESIS)
        events = [*events[:place], made_up, *(replace(event, sequence=event.sequence + 1) for event in events[place:])]
    elif change == "cut":
        del events[place:]
    else:
        events.append(replace(events[place], sequence=len(events) + 1, previous=events[-1].hash))
        place = len(events) - 1
    assert first_found(events, anchors) == place + 1


@pytest.fixture
def anchors(tmp_path: Path) -> Anchors:
    return Anchors(DirectoryStore(tmp_path / "store"))


@pytest.mark.parametrize(
    ("statement", "places"),
    [
        ("SELECT 1", []),
        ("DELETE FROM audit_events WHERE sequence = 3", [3]),
        ("DELETE FROM audit_events WHERE sequence >= 5", [5]),
        ("DELETE FROM audit_events", [1]),
        ("UPDATE audit_events SET content = replace(content, 'ward-2', 'ward-4') WHERE sequence = 3", [3]),
        ("UPDATE audit_events SET content = x'ff00' WHERE sequence = 3", [3]),
        ("UPDATE audit_events SET hash = '' WHERE sequence = 3", [3, 4]),
        ("UPDATE audit_events SET sequence = sequence + 1000 WHERE sequence = 3", [3, 7, 1003]),
        ("INSERT INTO audit_events SELECT 7, content, previous, hash FROM audit_events WHERE sequence = 6", [7]),
        ("INSERT INTO audit_events VALUES (-5, '{}', '', '')", [-5]),
    ],
)
def test_change_in_the_database_is_found(log: AuditLog, anchors: Anchors, tamper: Tamper, statement: str, places: list[int]) -> None:
    log.append([make_event(caller=f"ward-{number}") for number in range(6)])
    head = log.head()
    assert head is not None
    anchors.write(head)
    tamper(statement)
    looked_at: list[int] = []
    verification = verify_log(log, anchors, on_event=lambda: looked_at.append(1))
    assert [finding.sequence for finding in verification.findings] == places
    assert (verification.events, verification.anchors) == (len(looked_at), 1)


def test_log_that_was_replaced_by_an_older_copy_is_found(log: AuditLog, anchors: Anchors, tamper: Tamper) -> None:
    log.append([make_event(images=number) for number in range(4)])
    head = log.head()
    assert head is not None
    anchors.write(head)
    tamper("DELETE FROM audit_events WHERE sequence > 2")
    log.append([make_event(caller="later"), make_event(caller="later")])
    findings = verify_log(log, anchors).findings
    assert [(finding.sequence, finding.what) for finding in findings] == [
        (4, "event 4 is not the one that was anchored in the object store")
    ]


def test_event_that_is_committed_and_anchored_while_the_log_is_verified_is_not_missing(log: AuditLog, anchors: Anchors) -> None:
    log.append([make_event()])
    read_before = list(log.read())
    log.append([make_event()])
    anchors.write(log.newest(1)[0])
    verification = verify(read_before, anchors.read(), log.chain, events_after=log.read)
    assert (verification.events, verification.anchors, verification.findings) == (2, 1, [])


def test_anchors_are_read_beside_the_events_and_not_before() -> None:
    events = make_chain(3)
    order: list[str] = []

    def told(items: list[Any], name: str) -> Iterator[Any]:
        for item in items:
            order.append(f"{name} {item.sequence}")
            yield item

    anchors = [anchor_of(event) for event in events]
    assert verify(told(events, "event"), told(anchors, "anchor"), CHAIN).findings == []
    assert order == ["event 1", "anchor 1", "anchor 2", "event 2", "anchor 3", "event 3"]
