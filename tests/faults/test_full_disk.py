"""A disk that is full below the directory store: the write is refused by name, nothing partial stays, room makes it work again."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.catalog import Catalog
from shared.errors import NotFoundError, UnavailableError
from shared.http.problems import slug_of
from shared.storage import DirectoryStore, ObjectStore, StoreFitness
from tests.faults.conftest import MEBIBYTE, model_manifest, weights

DISK_BYTES = 4 * MEBIBYTE


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four mebibytes, which only root may mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "lethe-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False, timeout=30).returncode != 0:
        pytest.skip("only root may mount a small file system; the file-size limit below is tested everywhere")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files(folder: Path) -> list[str]:
    """Every file below a folder, hidden ones too."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_full_disk_refuses_a_commit_leaves_nothing_of_it_and_takes_it_when_there_is_room(
    small_disk: Path, catalog_on: Callable[[ObjectStore], Catalog], tmp_path: Path
) -> None:
    store = DirectoryStore(small_disk / "store")
    catalog, fitness = catalog_on(store), StoreFitness(store)
    kept = catalog.commit(model_manifest("kept"), weights(tmp_path / "small", MEBIBYTE))
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2 * MEBIBYTE))
    refused, folder = model_manifest("refused"), weights(tmp_path / "large", 2 * MEBIBYTE)
    before = files(small_disk)
    with pytest.raises(UnavailableError, match="No space left on device") as caught:
        catalog.commit(refused, folder)
    assert slug_of(caught.value) == "dependency-unavailable"
    assert files(small_disk) == before
    with pytest.raises(NotFoundError):
        catalog.get("model", refused.id)
    assert catalog.fetch(kept).is_dir()
    ballast.write_bytes(bytes(ballast.stat().st_size))
    (small_disk / "crumbs").write_bytes(bytes(room(small_disk)))
    with pytest.raises(UnavailableError, match="No space left on device"):
        fitness.check(writes=True)
    (small_disk / "crumbs").unlink()
    ballast.unlink()
    fitness.check(writes=True)
    assert catalog.commit(refused, folder).id == refused.id


def room(folder: Path) -> int:
    """Bytes that are left."""
    left = os.statvfs(folder)
    return left.f_bavail * left.f_frsize


def test_write_that_the_system_cuts_short_leaves_nothing(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    store.put(key="models/kept", data=b"kept")
    with file_size_limit(MEBIBYTE), pytest.raises(UnavailableError, match="File too large"):
        store.put(key="models/large", data=bytes(2 * MEBIBYTE))
    assert files(tmp_path / "store") == ["kept"]
    store.put(key="models/large", data=bytes(2 * MEBIBYTE), if_absent=True)


def test_local_copy_that_finds_no_room_is_no_copy(small_disk: Path, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    cached = Catalog(store, small_disk / "cache")
    manifest = cached.commit(model_manifest(), weights(tmp_path / "large", 6 * MEBIBYTE))
    with pytest.raises(UnavailableError, match="No space left on device"):
        cached.fetch(manifest)
    assert not [name for name in files(small_disk) if name.startswith("weights")]
    assert Catalog(store, tmp_path / "cache").fetch(manifest).is_dir()
