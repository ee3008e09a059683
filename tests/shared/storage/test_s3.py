"""What only the S3 store has to withstand: servers that ignore, drop, refuse, hang, break off or die."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import structlog
from minio.commonconfig import ENABLED
from minio.versioningconfig import VersioningConfig
from prometheus_client import REGISTRY

from shared.errors import AlreadyExistsError, IntegrityError, UnavailableError
from shared.storage import S3Store
from tests.fixtures.servers import connect
from tests.servers.ceph import CephCluster
from tests.servers.processes import free_port
from tests.servers.s3_server import S3Server

pytestmark = pytest.mark.server

OpenBucket = Callable[[S3Server], S3Store]


def failures() -> float:
    return REGISTRY.get_sample_value("lethe_storage_verification_failures_total", {"kind": "object"}) or 0.0


def write_raw(store: S3Store, key: str, data: bytes, metadata: dict[str, str]) -> None:
    """Write as a foreign client would."""
    store._client.put_object(bucket_name=store._bucket, object_name=key, data=io.BytesIO(data), length=len(data), metadata=metadata)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], *, read_seconds: float = 0.2) -> Iterator[S3Store]:
    """A store on a server that behaves badly."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        store = connect(S3Server(name="bad", endpoint=f"127.0.0.1:{server.server_port}"), "bucket", read_seconds=read_seconds)
        try:
            yield store
        finally:
            store.close()
            server.shutdown()
            thread.join()


class Quiet(BaseHTTPRequestHandler):
    """A handler that logs nothing."""

    def log_message(self, *arguments: Any) -> None:
        del arguments


def test_one_of_many_conditional_writers_wins(ceph_server: S3Server, open_bucket: OpenBucket) -> None:
    store = open_bucket(ceph_server)

    def write(number: int) -> bool:
        try:
            store.put(key="contended", data=str(number).encode() * 10_000, if_absent=True)
        except AlreadyExistsError:
            return False
        return True

    with ThreadPoolExecutor(max_workers=8) as threads:
        won = list(threads.map(write, range(8)))
    assert won.count(True) == 1
    assert store.get(key="contended") == str(won.index(True)).encode() * 10_000


@pytest.mark.parametrize("if_absent", [False, True])
@pytest.mark.parametrize("server", ["ceph_server", "moto_server", "rclone_server"])
def test_every_object_carries_its_digest(request: pytest.FixtureRequest, open_bucket: OpenBucket, server: str, *, if_absent: bool) -> None:
    store = open_bucket(request.getfixturevalue(server))
    written = store.put(key="a", data=b"data", if_absent=if_absent)
    assert store.stat(key="a").sha256 == written.sha256 == hashlib.sha256(b"data").hexdigest()


def test_ignored_condition_degrades_with_a_log_line(rclone_server: S3Server, open_bucket: OpenBucket) -> None:
    store = open_bucket(rclone_server)
    with structlog.testing.capture_logs() as logs:
        store.put(key="a", data=b"first", if_absent=True)
        with pytest.raises(AlreadyExistsError):
            store.put(key="a", data=b"second", if_absent=True)
    assert [(line["event"], line["log_level"]) for line in logs] == [("storage_conditional_put_ignored", "warning")]
    assert store.get(key="a") == b"first"


def test_missing_capability_is_reported_by_log_and_metric(rclone_server: S3Server, open_bucket: OpenBucket) -> None:
    with structlog.testing.capture_logs() as logs:
        assert open_bucket(rclone_server).probe()["conditional_put"] is False
    missing = [line["capability"] for line in logs if line["event"] == "storage_capability_missing"]
    assert missing == ["conditional_put", "versioning"]
    labels = {"store": "s3", "capability": "conditional_put", "present": "false"}
    assert REGISTRY.get_sample_value("lethe_storage_capability_info", labels) == 1.0


def test_server_that_drops_digests_is_found_by_the_probe(
    ceph_server: S3Server, open_bucket: OpenBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_bucket(ceph_server)
    put_object, presign = store._client.put_object, store._client.get_presigned_url
    monkeypatch.setattr(store._client, "put_object", lambda **given: put_object(**(given | {"metadata": {}})))
    monkeypatch.setattr(store._client, "get_presigned_url", lambda **given: presign(**(given | {"extra_query_params": {}})))
    with structlog.testing.capture_logs() as logs:
        # Without its digest a conditional PUT would go in unverifiable, so it counts as missing too.
        assert store.probe() == {"read_back": True, "digest": False, "conditional_put": False, "versioning": False}
    assert [line["capability"] for line in logs if line["event"] == "storage_capability_missing"] == [
        "digest",
        "conditional_put",
        "versioning",
    ]


def test_body_that_breaks_on_the_way_is_refused(ceph_server: S3Server, open_bucket: OpenBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_bucket(ceph_server)
    assert store.probe()["conditional_put"]
    send = store._http.put
    monkeypatch.setattr(store._http, "put", lambda url, *, content, headers: send(url, content=content[::-1], headers=headers))
    with pytest.raises(UnavailableError, match="BadDigest"):
        store.put(key="a", data=b"data", if_absent=True)
    assert not store.exists(key="a")


def test_changed_byte_is_noticed_on_every_read(ceph_server: S3Server, open_bucket: OpenBucket, tmp_path: Path) -> None:
    store = open_bucket(ceph_server)
    recorded = store.put(key="a", data=b"data").sha256
    write_raw(store, "a", b"dbta", {"sha256": str(recorded)})
    before = failures()
    with pytest.raises(IntegrityError, match="'a'"):
        store.get(key="a")
    with pytest.raises(IntegrityError):
        store.get_file(key="a", path=tmp_path / "copy")
    assert failures() == before + 2
    assert list(tmp_path.iterdir()) == []


def test_object_of_a_foreign_client_is_told_without_digest(ceph_server: S3Server, open_bucket: OpenBucket) -> None:
    store = open_bucket(ceph_server)
    write_raw(store, "a", b"data", {})
    assert store.stat(key="a").sha256 is None
    assert store.get(key="a") == b"data"


def test_large_file_is_sent_in_parts(ceph_server: S3Server, open_bucket: OpenBucket, tmp_path: Path) -> None:
    store = open_bucket(ceph_server)
    for name, size in (("small", 16 * 1024**2), ("large", 16 * 1024**2 + 1)):
        (tmp_path / name).write_bytes(bytes(size))
        store.put_file(key=name, path=tmp_path / name)
    etags = {name: store._client.stat_object(bucket_name=store._bucket, object_name=name).etag for name in ("small", "large")}
    assert "-" not in str(etags["small"])
    assert str(etags["large"]).endswith("-2")


@pytest.mark.parametrize("server", ["ceph_server", "moto_server", "rclone_server"])
def test_missing_bucket_is_named(request: pytest.FixtureRequest, server: str) -> None:
    store = connect(request.getfixturevalue(server), "no-such-bucket")
    try:
        for call in (lambda: store.put(key="a", data=b""), lambda: store.get(key="a"), lambda: store.list(prefix="")):
            with pytest.raises(UnavailableError, match="no bucket 'no-such-bucket'"):
                call()
    finally:
        store.close()


def test_wrong_key_is_refused_without_telling_it(ceph_server: S3Server) -> None:
    store = connect(replace(ceph_server, secret_key="wrong-secret"), "bucket")
    try:
        with pytest.raises(UnavailableError, match=r"^The object store refused the request \(SignatureDoesNotMatch\)\.$"):
            store.get(key="a")
    finally:
        store.close()


def test_absent_server_is_unavailable_soon() -> None:
    store = connect(S3Server(name="absent", endpoint=f"127.0.0.1:{free_port()}"), "bucket")
    started = time.monotonic()
    try:
        with pytest.raises(UnavailableError, match="does not answer"):
            store.get(key="a")
    finally:
        store.close()
    assert time.monotonic() - started < 5


def test_silent_server_is_unavailable_after_the_read_time_out() -> None:
    class Silent(Quiet):
        def do_GET(self) -> None:
            time.sleep(0.5)
            self.close_connection = True

    with serving(Silent) as store, pytest.raises(UnavailableError, match="does not answer"):
        store.get(key="a")


def test_server_silent_from_the_start_is_waited_for_once_by_all_who_write() -> None:
    over = threading.Event()

    class Silent(Quiet):
        def do_PUT(self) -> None:
            over.wait(60)
            self.close_connection = True

    def write(number: int) -> float:
        started = time.monotonic()
        with pytest.raises(UnavailableError):
            store.put(key=str(number), data=b"data", if_absent=True)
        return time.monotonic() - started

    with serving(Silent) as store, ThreadPoolExecutor(20) as threads:
        try:
            assert max(threads.map(write, range(20))) < 2  # one after the other it is 4 s
        finally:
            over.set()


def test_long_upload_after_silence_keeps_no_other_writer_out(tmp_path: Path) -> None:
    silent, uploading, over = threading.Event(), threading.Event(), threading.Event()
    silent.set()
    read_seconds = 2.0

    class Full(Quiet):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if silent.is_set():
                over.wait(2 * read_seconds)
                self.close_connection = True
                return
            if "/long" in self.path:
                uploading.set()
                over.wait(read_seconds)
            self.answer(200)

        def do_DELETE(self) -> None:
            self.answer(204)

        def answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.send_header("ETag", '"0"')
            self.end_headers()

    (tmp_path / "long").write_bytes(b"data")
    with serving(Full, read_seconds=read_seconds) as store, ThreadPoolExecutor(1) as other:
        with pytest.raises(UnavailableError, match="does not answer"):
            store.put(key="a", data=b"data")
        silent.clear()
        upload = other.submit(store.put_file, key="long", path=tmp_path / "long")
        try:
            assert uploading.wait(60)
            assert store.put(key="b", data=b"data").size_bytes == 4
        finally:
            over.set()
        assert upload.result().size_bytes == 4


def test_overloaded_server_is_asked_again() -> None:
    answers = iter([503, 503, 200])

    class Overloaded(Quiet):
        def do_GET(self) -> None:
            self.send_response(next(answers))
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"data")

    with serving(Overloaded) as store:
        assert store.get(key="a") == b"data"


def test_answer_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    class Broken(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half")
            self.close_connection = True

    with serving(Broken) as store:
        with pytest.raises(UnavailableError, match="does not answer"):
            store.get_file(key="a", path=tmp_path / "copy")
        with pytest.raises(UnavailableError, match="does not answer"):
            store.get(key="a")
    assert list(tmp_path.iterdir()) == []


def test_connections_go_back_to_the_pool(ceph_server: S3Server, open_bucket: OpenBucket, tmp_path: Path) -> None:
    store = open_bucket(ceph_server)
    store.put(key="a", data=b"data")
    for _ in range(40):
        store.get(key="a")
        store.get_file(key="a", path=tmp_path / "copy")
    store.put(key="large", data=bytes(8 * 1024**2))
    (tmp_path / "file").write_bytes(b"")
    for _ in range(10):
        # The answer is left unread, because there is no place to write it to.
        with pytest.raises(NotADirectoryError):
            store.get_file(key="large", path=tmp_path / "file" / "copy")
    pool = store._pool.connection_from_url(f"http://{ceph_server.endpoint}")
    assert pool.num_connections <= 2


def test_killed_gateway_is_unavailable_and_comes_back_with_its_objects(
    ceph_cluster: CephCluster, open_bucket: OpenBucket, tmp_path: Path
) -> None:
    store = open_bucket(ceph_cluster.server)
    store.put(key="kept", data=b"kept", if_absent=True)
    (tmp_path / "file").write_bytes(b"data")
    ceph_cluster.kill_gateway()
    try:
        calls = [
            lambda: store.put(key="new", data=b"new"),
            lambda: store.put(key="new", data=b"new", if_absent=True),
            lambda: store.put_file(key="new", path=tmp_path / "file"),
            lambda: store.get(key="kept"),
            lambda: store.exists(key="kept"),
            lambda: store.list(prefix=""),
            store.probe,
        ]
        for call in calls:
            with pytest.raises(UnavailableError, match="does not answer"):
                call()
    finally:
        ceph_cluster.start_gateway()
    assert store.get(key="kept") == b"kept"
    assert not store.exists(key="new")
    store.put(key="new", data=b"new", if_absent=True)
    with pytest.raises(AlreadyExistsError):
        store.put(key="kept", data=b"other", if_absent=True)
    assert [(info.key, store.get(key=info.key)) for info in store.list(prefix="")] == [("kept", b"kept"), ("new", b"new")]


def test_probe_of_a_store_that_keeps_versions_leaves_none(ceph_server: S3Server, open_bucket: OpenBucket) -> None:
    store = open_bucket(ceph_server)
    store._client.set_bucket_versioning(bucket_name=store._bucket, config=VersioningConfig(ENABLED))

    def versions() -> int:
        return len(list(store._client.list_objects(bucket_name=store._bucket, include_version=True, recursive=True)))

    assert store.probe()["versioning"]
    of_the_first_condition = versions()  # tried once a process; lifecycle removes them
    assert store.probe()["versioning"]
    assert versions() == of_the_first_condition
