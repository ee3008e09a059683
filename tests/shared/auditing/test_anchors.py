"""Anchors in real stores: written once, listed in order, in the bucket that is theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from shared.auditing import Anchor, Anchors
from shared.auditing.chain import GENESIS, Chain
from shared.settings import Settings
from shared.storage import DirectoryStore
from tests.fixtures.servers import connect
from tests.shared.auditing.conftest import KEY, make_event

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.s3_server import S3Server

EVENTS = [Chain(KEY).link(make_event(), sequence=number, previous=GENESIS) for number in (3, 20, 100)]


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
    settings = Settings(
        home=tmp_path,
        store="s3",
        s3_endpoint=ceph_server.endpoint,
        s3_secure=False,
        s3_region=ceph_server.region,
        s3_bucket="elsewhere",
        audit_bucket="lethe-audit-anchors",
        s3_access_key=SecretStr(ceph_server.access_key),
        s3_secret_key=SecretStr(ceph_server.secret_key),
    )
    anchors = Anchors.open(settings)
    write_all(anchors)
    assert [anchor.sequence for anchor in anchors.read()] == [3, 20, 100]
    anchors.close()
    store = connect(ceph_server, "lethe-audit-anchors")
    assert len(store.list(prefix="audit-log/anchors/")) == 3
    store.close()
