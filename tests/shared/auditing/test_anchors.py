"""Anchors in real stores: written once, listed in order, in the bucket that is theirs."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from shared.auditing import Anchor, Anchors, AuditLog, verify_log
from shared.auditing.chain import GENESIS, Chain
from shared.database import Database
from shared.settings import Settings
from shared.storage import DirectoryStore
from shared.storage.buckets import open_buckets
from tests.fixtures.servers import connect
from tests.shared.auditing.conftest import KEY, make_event

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.s3_server import S3Server

EVENTS = [Chain(KEY).link(make_event(), sequence=number, previous=GENESIS) for number in (3, 20, 100)]


def s3_settings(server: S3Server, home: Path, *, audit_bucket: str) -> Settings:
    """An installation whose anchors lie in a bucket of their own."""
    return Settings(
        home=home,
        store="s3",
        s3_endpoint=server.endpoint,
        s3_secure=False,
        s3_region=server.region,
        s3_bucket="elsewhere",
        audit_bucket=audit_bucket,
        s3_access_key=SecretStr(server.access_key),
        s3_secret_key=SecretStr(server.secret_key),
    )


def write_all(anchors: Anchors) -> None:
    for event in (EVENTS[2], EVENTS[0], EVENTS[1], EVENTS[0]):
        anchors.write(event)


def test_anchors_are_listed_by_sequence(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    anchors = Anchors(store)
    write_all(anchors)
    store.put(key="audit-log/anchors/notes.txt", data=b"somebody else's")
    assert list(anchors.read()) == [Anchor(event.sequence, event.hash) for event in EVENTS]


def test_second_anchor_of_an_event_does_not_hide_the_first(tmp_path: Path) -> None:
    anchors = Anchors(DirectoryStore(tmp_path))
    other = Chain(bytes(32)).link(make_event(), sequence=3, previous=GENESIS)
    anchors.write(EVENTS[0])
    anchors.write(other)
    assert {anchor.hash for anchor in anchors.read()} == {EVENTS[0].hash, other.hash}


@pytest.mark.server
def test_anchors_lie_in_the_bucket_of_the_audit_log(ceph_server: S3Server, tmp_path: Path) -> None:
    ceph_server.make_bucket("lethe-audit-anchors")
    settings = s3_settings(ceph_server, tmp_path, audit_bucket="lethe-audit-anchors")
    anchors = Anchors.open(settings)
    write_all(anchors)
    assert [anchor.sequence for anchor in anchors.read()] == [3, 20, 100]
    anchors.close()
    store = connect(ceph_server, "lethe-audit-anchors")
    assert len(store.list(prefix="audit-log/anchors/")) == 3
    store.close()


@pytest.mark.server
def test_anchor_that_somebody_deleted_is_found_beneath_its_delete_marker(ceph_server: S3Server, tmp_path: Path) -> None:
    settings = s3_settings(ceph_server, tmp_path, audit_bucket="lethe-locked-anchors")
    with closing(open_buckets(settings)) as buckets:
        buckets.prepare_audit("lethe-locked-anchors", retention_days=1)
    log = AuditLog.open(settings)
    with closing(log), closing(Anchors.open(settings)) as anchors:
        log.append([make_event(), make_event()])
        with Database(settings.sql_url).writing() as connection:
            connection.execute(text("DROP TRIGGER audit_events_no_delete"))
        for head in log.newest(2):
            anchors.write(head)
        store = connect(ceph_server, "lethe-locked-anchors")
        with closing(store):
            for info in store.list(prefix="audit-log/anchors/"):
                store.delete(key=info.key)
            assert store.list(prefix="audit-log/anchors/") == []
        assert verify_log(log, anchors).anchors == 2
        with Database(settings.sql_url).writing() as connection:
            connection.execute(text("DELETE FROM audit_events WHERE sequence = 2"))
        (finding,) = verify_log(log, anchors).findings
        assert (finding.sequence, "anchor in the object store" in finding.what) == (2, True)


def test_newest_anchor_is_looked_for_between_a_number_and_an_event(tmp_path: Path) -> None:
    anchors = Anchors(DirectoryStore(tmp_path))
    write_all(anchors)
    assert anchors.newest(after=0, until=EVENTS[2]) == Anchor(100, EVENTS[2].hash)
    assert anchors.newest(after=3, until=EVENTS[1]) == Anchor(20, EVENTS[1].hash)
    assert anchors.newest(after=20, until=EVENTS[1]) is None
    foreign = Chain(bytes(32)).link(make_event(), sequence=20, previous=GENESIS)
    assert anchors.newest(after=3, until=foreign) is None  # of the same number, and of another log
