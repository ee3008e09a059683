"""Writing events while requests wait for them: those that come together are committed together, and the head is anchored now and then."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Final

from prometheus_client import Counter

from shared.auditing.anchors import Anchor, Anchors
from shared.auditing.events import AuditEvent, ChainedEvent
from shared.auditing.log import AuditLog
from shared.errors import LetheError, SaturatedError, UnavailableError
from shared.telemetry import get_logger

EVENTS = Counter("lethe_audit_events_total", "Events written to the audit log.", ["action", "outcome"])
WRITE_FAILURES = Counter("lethe_audit_write_failures_total", "Events that could not be written, whose actions did not happen.")
ANCHOR_FAILURES = Counter("lethe_audit_anchor_failures_total", "Anchors of the audit log that could not be written; tried again.")

# How old events become before an anchor covers them; each anchor is one small object.
ANCHOR_SECONDS: Final = 10.0
# One statement of this many rows takes milliseconds.
_MOST_TOGETHER: Final = 256
# Refusing early keeps the wait of those already queued bearable.
_MOST_WAITING: Final = 1024

_LOG = get_logger(__name__)


def count_events(events: Sequence[AuditEvent]) -> None:
    """Account for events that were committed."""
    for event in events:
        EVENTS.labels(action=event.action, outcome=event.outcome).inc()


class AuditWriter:
    """One thread that commits what waits, and one that anchors; both run inside `serving`."""

    def __init__(self, log: AuditLog, anchors: Anchors, *, anchor_seconds: float = ANCHOR_SECONDS) -> None:
        self.log = log
        self._anchors = anchors
        self._anchor_seconds = anchor_seconds
        self._waiting: deque[tuple[AuditEvent, Future[None]]] = deque()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._committed = threading.Event()
        self._anchored: Anchor | None = None

    @contextmanager
    def serving(self) -> Iterator[AuditWriter]:
        """Write and anchor while the block lasts; at its end what waits is written and the head anchored."""
        committing = threading.Thread(target=self._commit_batches, name="audit-log", daemon=True)
        anchoring = threading.Thread(target=self._anchor_heads, name="audit-anchors", daemon=True)
        committing.start()
        anchoring.start()
        try:
            yield self
        finally:
            with self._changed:
                self._stopping.set()
                self._changed.notify()
            committing.join()
            self._committed.set()
            anchoring.join()

    def write(self, event: AuditEvent) -> Future[None]:
        """Done once the event is committed; fails with UnavailableError or SaturatedError, and then the action must not happen."""
        with self._changed:
            if self._stopping.is_set():
                raise UnavailableError("The service is stopping; send the request again later.")
            if len(self._waiting) >= _MOST_WAITING:
                WRITE_FAILURES.inc()
                raise SaturatedError("Too many events wait for the audit log; try again later.")
            written: Future[None] = Future()
            self._waiting.append((event, written))
            self._changed.notify()
        return written

    def committed_elsewhere(self, event: AuditEvent) -> None:
        """Take note of an event that was committed within another transaction."""
        count_events([event])

    def _commit_batches(self) -> None:
        """Commit what waits until the end."""
        while batch := self._take():
            events = [event for event, _ in batch]
            try:
                self.log.append(events)
            except Exception as error:  # noqa: BLE001 - handed to every request that waits for it
                self._fail(batch, error)
                continue
            count_events(events)
            for _, written in batch:
                written.set_result(None)

    def _take(self) -> list[tuple[AuditEvent, Future[None]]]:
        """What waits, as soon as there is something; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping.is_set())
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST_TOGETHER))]
        # From here on nobody can cancel. The event of who did so before is committed all the same, and told to nobody.
        return [(event, written if written.set_running_or_notify_cancel() else Future()) for event, written in batch]

    def _fail(self, batch: Sequence[tuple[AuditEvent, Future[None]]], error: Exception) -> None:
        """Tell all who wait that their events are not in the log."""
        WRITE_FAILURES.inc(len(batch))
        _LOG.error("audit events were not written", events=len(batch), exc_info=error)
        told = error if isinstance(error, LetheError) else UnavailableError("The audit log cannot be written; nothing is done without it.")
        for _, written in batch:
            written.set_exception(told)

    def _anchor_heads(self) -> None:
        """Anchor the head at most so often, and once all is committed: events of this process, and those of others that are gone."""
        while not self._committed.wait(self._anchor_seconds):
            self._try_to_anchor()
        self._try_to_anchor(at_end=True)

    def _try_to_anchor(self, *, at_end: bool = False) -> None:
        """Anchor the head if it is new; a store that is away is tried again next time."""
        try:
            head = self.log.head()
            if head is not None and (self._anchored is None or head.hash != self._anchored.hash):
                self._anchor(head, at_end=at_end)
        except Exception as error:  # noqa: BLE001 - the thread must live on; what failed is counted and logged
            ANCHOR_FAILURES.inc()
            _LOG.warning("the audit log was not anchored", exc_info=error)

    def _anchor(self, head: ChainedEvent, *, at_end: bool) -> None:
        """Anchor the head, unless it is, or another service anchored what came before in the meantime and will again."""
        after = head.sequence - 1 if self._anchored is None else self._anchored.sequence
        newest = self._anchors.newest(after=after, until=head)
        if newest is None or (at_end and newest.sequence < head.sequence):
            newest = self._anchors.write(head)
        self._anchored = newest
