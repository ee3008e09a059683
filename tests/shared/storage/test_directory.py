"""What only the directory store has to withstand: links, half-written files, folders in the way, many writers."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from shared.errors import AlreadyExistsError, ConflictError, ForbiddenError, NotFoundError, UnavailableError
from shared.storage import DirectoryStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def directory_store(root: Path) -> DirectoryStore:
    return DirectoryStore(root)


def test_half_written_file_is_invisible(directory_store: DirectoryStore, root: Path) -> None:
    directory_store.put(key="a/b", data=b"")
    (root / "a" / ".0123.partial").write_bytes(b"half")
    (root / ".0123.partial").write_bytes(b"half")
    assert [info.key for info in directory_store.list(prefix="")] == ["a/b"]
    assert directory_store.list_folders(prefix="") == ["a"]


def test_link_out_of_the_store_is_not_followed(directory_store: DirectoryStore, root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "outside").mkdir()
    (root / "file").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path / "outside")
    for read in (directory_store.get, directory_store.stat, directory_store.exists, directory_store.delete):
        with pytest.raises(ForbiddenError):
            read(key="file")
    with pytest.raises(ForbiddenError):
        directory_store.put(key="folder/new", data=b"")
    assert directory_store.list(prefix="") == []
    assert directory_store.list_folders(prefix="") == []
    assert (tmp_path / "secret").read_bytes() == b"secret"
    assert list((tmp_path / "outside").iterdir()) == []


def test_key_below_another_object_is_a_conflict(directory_store: DirectoryStore) -> None:
    directory_store.put(key="a", data=b"object")
    for if_absent in (True, False):
        with pytest.raises(ConflictError, match="is a folder of another object, or lies below one"):
            directory_store.put(key="a/b/c", data=b"", if_absent=if_absent)
    with pytest.raises(NotFoundError):
        directory_store.get(key="a/b")
    directory_store.delete(key="a/b")
    assert directory_store.get(key="a") == b"object"


def test_key_that_is_a_folder_is_no_object(directory_store: DirectoryStore) -> None:
    directory_store.put(key="a/b", data=b"object")
    with pytest.raises(ConflictError):
        directory_store.put(key="a", data=b"")
    for read in (directory_store.get, directory_store.stat):
        with pytest.raises(NotFoundError):
            read(key="a")
    assert not directory_store.exists(key="a")
    directory_store.delete(key="a")
    assert directory_store.get(key="a/b") == b"object"


def test_one_of_many_writers_wins(directory_store: DirectoryStore) -> None:
    def write(number: int) -> bool:
        try:
            directory_store.put(key="a/contended", data=str(number).encode() * 10_000, if_absent=True)
        except AlreadyExistsError:
            return False
        return True

    with ThreadPoolExecutor(max_workers=8) as threads:
        won = list(threads.map(write, range(8)))
    assert won.count(True) == 1
    assert directory_store.get(key="a/contended") == str(won.index(True)).encode() * 10_000


def test_full_disk_is_unavailable_and_leaves_nothing(directory_store: DirectoryStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    directory_store.put(key="a/kept", data=b"")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnavailableError, match="No space left on device"):
        directory_store.put(key="a/new", data=b"data")
    assert [path.name for path in (root / "a").iterdir()] == ["kept"]


def test_file_system_without_hard_links_is_unavailable(directory_store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_source: Path, _target: Path) -> NoReturn:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(UnavailableError, match="cannot be written"):
        directory_store.probe()


def test_store_survives_being_opened_again(directory_store: DirectoryStore, root: Path) -> None:
    directory_store.put(key="a/b", data=b"kept")
    assert DirectoryStore(root).get(key="a/b") == b"kept"


def test_listing_enters_no_folder_that_cannot_hold_wanted_keys(directory_store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1", "b/1", "b/2", "c/1"):
        directory_store.put(key=name, data=b"")
    entered: list[str] = []
    scan = os.scandir

    def recorded(folder: Path) -> object:
        entered.append(folder.name)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", recorded)
    assert [info.key for info in directory_store.list(prefix="", start_after="b/1", limit=1)] == ["b/2"]
    assert entered == ["store", "b"]
