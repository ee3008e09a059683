"""The contract of ObjectStore, held against a folder, Ceph, moto and rclone."""

from __future__ import annotations

import hashlib
import random
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import AlreadyExistsError, InvalidRequestError, NotFoundError
from shared.storage import ObjectStore
from shared.storage.s3 import PART_BYTES


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("data", [b"", b"\0", b"plain words", bytes(range(256)) * 5000])
def test_written_object_is_read_back_with_its_digest(store: ObjectStore, folder: str, data: bytes) -> None:
    key = f"{folder}{sha256(data)}"
    written = store.put(key=key, data=data)
    assert (written.key, written.size_bytes, written.sha256) == (key, len(data), sha256(data))
    assert store.get(key=key) == data
    found = store.stat(key=key)
    assert (found.key, found.size_bytes) == (key, len(data))
    assert found.sha256 in {None, sha256(data)}


def test_second_put_replaces_the_first(store: ObjectStore, folder: str) -> None:
    store.put(key=f"{folder}a", data=b"first and longer")
    store.put(key=f"{folder}a", data=b"second")
    assert store.get(key=f"{folder}a") == b"second"
    assert store.stat(key=f"{folder}a").size_bytes == 6


def test_put_if_absent_on_a_free_key_writes(store: ObjectStore, folder: str) -> None:
    written = store.put(key=f"{folder}a", data=b"only", if_absent=True)
    assert written.sha256 == sha256(b"only")
    assert store.get(key=f"{folder}a") == b"only"
    assert store.stat(key=f"{folder}a").sha256 in {None, sha256(b"only")}


def test_put_if_absent_on_a_taken_key_keeps_the_first(store: ObjectStore, folder: str) -> None:
    store.put(key=f"{folder}a", data=b"first", if_absent=True)
    with pytest.raises(AlreadyExistsError, match=f"{folder}a"):
        store.put(key=f"{folder}a", data=b"second", if_absent=True)
    assert store.get(key=f"{folder}a") == b"first"


def test_deleted_key_is_free_again(store: ObjectStore, folder: str) -> None:
    store.put(key=f"{folder}a", data=b"first", if_absent=True)
    store.delete(key=f"{folder}a")
    assert not store.exists(key=f"{folder}a")
    store.put(key=f"{folder}a", data=b"second", if_absent=True)
    assert store.exists(key=f"{folder}a")


def test_missing_key_is_not_found(store: ObjectStore, folder: str, tmp_path: Path) -> None:
    key = f"{folder}nothing"
    for read in (store.get, store.stat):
        with pytest.raises(NotFoundError, match=key):
            read(key=key)
    with pytest.raises(NotFoundError, match=key):
        store.get_file(key=key, path=tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []
    assert not store.exists(key=key)


def test_deleting_a_missing_key_is_no_error(store: ObjectStore, folder: str) -> None:
    store.delete(key=f"{folder}nothing")
    assert not store.exists(key=f"{folder}nothing")


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1])
def test_file_round_trip_keeps_every_byte(store: ObjectStore, folder: str, tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    (tmp_path / "source").write_bytes(data)
    key = f"{folder}{size}"
    written = store.put_file(key=key, path=tmp_path / "source")
    assert (written.size_bytes, written.sha256) == (size, sha256(data))
    assert store.stat(key=key).sha256 in {None, sha256(data)}
    received = store.get_file(key=key, path=tmp_path / "below" / "copy")
    assert (received.size_bytes, received.sha256) == (size, sha256(data))
    assert (tmp_path / "below" / "copy").read_bytes() == data
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["copy"]


def test_fetched_file_replaces_what_was_there(store: ObjectStore, folder: str, tmp_path: Path) -> None:
    store.put(key=f"{folder}a", data=b"new")
    (tmp_path / "copy").write_bytes(b"old and longer")
    store.get_file(key=f"{folder}a", path=tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"new"


def test_listing_is_sorted_by_whole_key(store: ObjectStore, folder: str) -> None:
    keys = [f"{folder}{name}" for name in ("b", "a/x", "a-b", "a.c", "a/b/c", "aa", "Z", "_")]
    for key in keys:
        store.put(key=key, data=key.encode())
    listed = store.list(prefix=folder)
    assert [info.key for info in listed] == sorted(keys)
    assert [info.size_bytes for info in listed] == [len(key) for key in sorted(keys)]


def test_listing_takes_part_of_a_name_as_prefix(store: ObjectStore, folder: str) -> None:
    for name in ("part-000", "part-001", "parts/x", "other"):
        store.put(key=f"{folder}{name}", data=b"")
    assert [info.key for info in store.list(prefix=f"{folder}part-")] == [f"{folder}part-000", f"{folder}part-001"]
    assert [info.key for info in store.list(prefix=f"{folder}part")] == [f"{folder}{name}" for name in ("part-000", "part-001", "parts/x")]
    assert store.list(prefix=f"{folder}nothing") == []
    assert store.list(prefix="no-such-folder/below/") == []


def test_listing_continues_behind_the_last_key(store: ObjectStore, folder: str) -> None:
    keys = [f"{folder}{group}/{number}" for group in ("a", "b", "c") for number in range(4)]
    for key in keys:
        store.put(key=key, data=b"")
    seen: list[str] = []
    while page := store.list(prefix=folder, start_after=seen[-1] if seen else "", limit=5):
        assert len(page) <= 5
        seen += [info.key for info in page]
    assert seen == keys


def test_kept_keys_are_listed_as_objects_are(store: ObjectStore, folder: str) -> None:
    keys = [f"{folder}{name}" for name in ("a-b", "a/x", "a/y", "b", "c")]
    for key in (*keys, keys[0], keys[3]):  # where versions are kept, one key has several
        store.put(key=key, data=b"")
    pages = [store.list_kept(prefix=folder, limit=2)]
    while pages[-1] and len(pages) <= len(keys):
        pages.append(store.list_kept(prefix=folder, start_after=pages[-1][-1], limit=2))
    assert pages == [keys[:2], keys[2:4], keys[4:], []]
    assert store.list_kept(prefix=f"{folder}nothing/") == []


def test_folders_are_listed_by_name(store: ObjectStore, folder: str) -> None:
    for name in ("one/a", "one/b/c", "two/a", "file"):
        store.put(key=f"{folder}{name}", data=b"")
    assert store.list_folders(prefix=folder) == ["one", "two"]
    assert store.list_folders(prefix=f"{folder}one/") == ["b"]
    assert store.list_folders(prefix=f"{folder}nothing/") == []
    assert folder.rstrip("/") in store.list_folders(prefix="")


def test_folder_whose_objects_are_gone_is_not_listed(store: ObjectStore, folder: str) -> None:
    store.put(key=f"{folder}kept/a", data=b"")
    store.put(key=f"{folder}gone/deep/a", data=b"")
    store.delete(key=f"{folder}gone/deep/a")
    assert store.list_folders(prefix=folder) == ["kept"]


@pytest.mark.parametrize(
    "key", ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/.hidden", "a b", "a\n", "ä", "a\\b", "x" * 1001]
)
def test_key_that_breaks_the_pattern_is_refused_everywhere(store: ObjectStore, tmp_path: Path, key: str) -> None:
    (tmp_path / "source").write_bytes(b"data")
    calls = [
        lambda: store.put(key=key, data=b""),
        lambda: store.put_file(key=key, path=tmp_path / "source"),
        lambda: store.get(key=key),
        lambda: store.get_file(key=key, path=tmp_path / "copy"),
        lambda: store.stat(key=key),
        lambda: store.exists(key=key),
        lambda: store.delete(key=key),
    ]
    for call in calls:
        with pytest.raises(InvalidRequestError) as caught:
            call()
        assert caught.value.field == "key"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,30}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,30}){0,4}", fullmatch=True),
    data=st.binary(max_size=2000),
)
def test_any_object_under_any_valid_key_round_trips(store: ObjectStore, tmp_path: Path, key: str, data: bytes) -> None:
    # A place of its own, since no key may be a folder of another example's.
    prefix = f"any/{secrets.token_hex(8)}/"
    store.put(key=prefix + key, data=data, if_absent=True)
    assert store.get(key=prefix + key) == data
    assert [info.key for info in store.list(prefix=prefix)] == [prefix + key]
    received = store.get_file(key=prefix + key, path=tmp_path / "copy")
    assert ((tmp_path / "copy").read_bytes(), received.sha256) == (data, sha256(data))


def test_threads_share_one_store(store: ObjectStore, folder: str) -> None:
    def work(number: int) -> bytes:
        data = str(number).encode() * 1000
        store.put(key=f"{folder}{number}", data=data)
        return store.get(key=f"{folder}{number}")

    with ThreadPoolExecutor(max_workers=8) as threads:
        assert list(threads.map(work, range(48))) == [str(number).encode() * 1000 for number in range(48)]


def test_probe_reports_what_the_store_can_do_and_leaves_nothing(store: ObjectStore, request: pytest.FixtureRequest) -> None:
    ignores_conditions = "rclone" in request.node.callspec.id
    found = {"read_back": True, "digest": True, "conditional_put": not ignores_conditions, "versioning": False}
    assert store.probe() == found
    assert store.list(prefix="probe/") == []
