"""A fetched folder is right, whoever fetches it at the same time and whatever happened to it since."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog
from prometheus_client import REGISTRY

from shared.catalog import Catalog, ModelManifest
from shared.catalog.folders import describe_folder
from shared.errors import IntegrityError, NotFoundError
from shared.storage import DirectoryStore, ObjectInfo, ObjectStore
from tests.shared.catalog.examples import model

ROOT = Path(__file__).parents[3]
FETCH = """
import sys
from pathlib import Path
from shared.catalog import Catalog
from shared.storage import DirectoryStore
store, cache, identifier = sys.argv[1:]
catalog = Catalog(DirectoryStore(Path(store)), Path(cache))
print(catalog.fetch(catalog.get("model", identifier)))
"""


class CountingStore(DirectoryStore):
    """A directory store that counts the files read from it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.fetched: list[str] = []

    def get_file(self, *, key: str, path: Path) -> ObjectInfo:
        """Count and fetch."""
        self.fetched.append(key)
        return super().get_file(key=key, path=path)


@pytest.fixture
def committed(catalog: Catalog, folder: Path) -> ModelManifest:
    return catalog.commit(model(), folder)


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def cache_failures() -> float:
    return REGISTRY.get_sample_value("lethe_storage_verification_failures_total", {"kind": "cache"}) or 0.0


def test_fetched_folder_equals_the_committed_one(catalog: Catalog, committed: ModelManifest, tmp_path: Path) -> None:
    local = catalog.fetch(committed)
    assert local == tmp_path / "cache" / committed.id
    assert describe_folder(local) == committed.files
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [".locks", committed.id]


def test_thing_without_files_is_fetched_as_an_empty_folder(catalog: Catalog) -> None:
    assert list(catalog.fetch(catalog.commit(model())).iterdir()) == []


@pytest.mark.parametrize("position", [0, 128_000, 255_999])
def test_changed_byte_in_the_store_is_an_integrity_error(
    store: ObjectStore, catalog: Catalog, committed: ModelManifest, tmp_path: Path, position: int
) -> None:
    key = f"models/{committed.id}/unet/weights.safetensors"
    store.put(key=key, data=flip(store.get(key=key), position))
    with pytest.raises(IntegrityError, match=f"'unet/weights.safetensors' of model {committed.id}"):
        catalog.fetch(committed)
    with pytest.raises(IntegrityError, match=f"'unet/weights.safetensors' of model {committed.id}"):
        catalog.read_file(committed, "unet/weights.safetensors")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".locks"]


def test_missing_file_in_the_store_is_an_integrity_error(store: ObjectStore, catalog: Catalog, committed: ModelManifest) -> None:
    store.delete(key=f"models/{committed.id}/unet/config.json")
    with pytest.raises(IntegrityError, match=r"'unet/config\.json'"):
        catalog.fetch(committed)
    with pytest.raises(IntegrityError, match=r"'unet/config\.json'"):
        catalog.read_file(committed, "unet/config.json")


def test_repaired_store_is_fetched_again(store: ObjectStore, catalog: Catalog, committed: ModelManifest) -> None:
    key = f"models/{committed.id}/model_index.json"
    store.put(key=key, data=b"[]")
    with pytest.raises(IntegrityError):
        catalog.fetch(committed)
    store.put(key=key, data=b"{}")
    assert describe_folder(catalog.fetch(committed)) == committed.files


def test_damaged_copy_is_repaired_by_the_next_process(
    store: ObjectStore, catalog: Catalog, committed: ModelManifest, tmp_path: Path
) -> None:
    weights = catalog.fetch(committed) / "unet" / "weights.safetensors"
    weights.write_bytes(flip(weights.read_bytes(), 1000))
    before = cache_failures()
    with structlog.testing.capture_logs() as logs:
        local = Catalog(store, tmp_path / "cache").fetch(committed)
    assert describe_folder(local) == committed.files
    assert [(line["event"], line["id"]) for line in logs] == [("cached_copy_damaged", committed.id)]
    assert cache_failures() == before + 1
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [".locks", committed.id]


def test_damaged_copy_of_a_damaged_store_is_never_given(
    store: ObjectStore, catalog: Catalog, committed: ModelManifest, tmp_path: Path
) -> None:
    (catalog.fetch(committed) / "model_index.json").write_bytes(b"[]")
    store.put(key=f"models/{committed.id}/model_index.json", data=b"[]")
    with pytest.raises(IntegrityError):
        Catalog(store, tmp_path / "cache").fetch(committed)


def test_file_planted_in_the_copy_is_removed(store: ObjectStore, catalog: Catalog, committed: ModelManifest, tmp_path: Path) -> None:
    (catalog.fetch(committed) / "pipeline.py").write_bytes(b"import os")
    assert not (Catalog(store, tmp_path / "cache").fetch(committed) / "pipeline.py").exists()


def test_verified_copy_is_read_from_the_store_once(tmp_path: Path, folder: Path) -> None:
    store = CountingStore(tmp_path / "store")
    catalog = Catalog(store, tmp_path / "cache")
    committed = catalog.commit(model(), folder)
    for reader in (catalog, catalog, Catalog(store, tmp_path / "cache")):
        reader.fetch(committed)
    assert len(store.fetched) == len(committed.files)


def test_removed_copy_is_fetched_again(catalog: Catalog, committed: ModelManifest) -> None:
    local = catalog.fetch(committed)
    local.rename(local.with_name("moved"))
    assert describe_folder(catalog.fetch(committed)) == committed.files


def test_threads_fetch_one_copy_between_them(tmp_path: Path, folder: Path) -> None:
    store = CountingStore(tmp_path / "store")
    committed = Catalog(store, tmp_path / "cache").commit(model(), folder)
    catalogs = [Catalog(store, tmp_path / "cache") for _ in range(4)]
    with ThreadPoolExecutor(max_workers=8) as threads:
        places = set(threads.map(lambda number: catalogs[number % 4].fetch(committed), range(16)))
    assert places == {tmp_path / "cache" / committed.id}
    assert len(store.fetched) == len(committed.files)
    assert describe_folder(places.pop()) == committed.files


def test_processes_fetch_one_copy_between_them(tmp_path: Path, folder: Path) -> None:
    committed = Catalog(DirectoryStore(tmp_path / "store"), tmp_path / "unused").commit(model(), folder)
    command = [sys.executable, "-c", FETCH, str(tmp_path / "store"), str(tmp_path / "cache"), committed.id]
    children = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {child.communicate(timeout=60)[0].strip() for child in children}
    assert [child.returncode for child in children] == [0, 0, 0]
    assert answers == {str(tmp_path / "cache" / committed.id)}
    assert describe_folder(tmp_path / "cache" / committed.id) == committed.files


def test_fetch_killed_half_way_is_begun_again(tmp_path: Path, folder: Path) -> None:
    catalog = Catalog(DirectoryStore(tmp_path / "store"), tmp_path / "cache")
    committed = catalog.commit(model(), folder)
    pausing = FETCH.replace(
        "catalog = Catalog(DirectoryStore(Path(store)), Path(cache))",
        "import time\n"
        "class Pausing(DirectoryStore):\n"
        "    def get_file(self, *, key, path):\n"
        "        info = super().get_file(key=key, path=path)\n"
        "        time.sleep(60 if key.endswith('config.json') else 0)\n"
        "        return info\n"
        "catalog = Catalog(Pausing(Path(store)), Path(cache))",
    )
    command = [sys.executable, "-c", pausing, str(tmp_path / "store"), str(tmp_path / "cache"), committed.id]
    half = tmp_path / "cache" / f".{committed.id}.partial" / "unet" / "config.json"
    with subprocess.Popen(command, cwd=ROOT) as child:
        deadline = time.monotonic() + 30
        while not half.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
    assert half.exists()
    assert not (tmp_path / "cache" / committed.id).exists()
    assert describe_folder(catalog.fetch(committed)) == committed.files
    assert not half.exists()


# ---------------------------------------------------------------- one file


def test_one_file_is_fetched_alone_and_once(tmp_path: Path, folder: Path) -> None:
    store = CountingStore(tmp_path / "store")
    catalog = Catalog(store, tmp_path / "cache")
    manifest = catalog.commit(model(), folder)
    path = catalog.fetch_file(manifest, "unet/config.json")
    assert path.read_bytes() == b'{"layers": 1}'
    assert catalog.fetch_file(manifest, "unet/config.json") == path
    assert Catalog(store, tmp_path / "cache").fetch_file(manifest, "unet/config.json") == path
    assert [key.rpartition("/")[2] for key in store.fetched] == ["config.json"]


def test_one_file_comes_from_the_whole_folder_where_that_is_here(tmp_path: Path, folder: Path) -> None:
    store = CountingStore(tmp_path / "store")
    catalog = Catalog(store, tmp_path / "cache")
    manifest = catalog.commit(model(), folder)
    whole = catalog.fetch(manifest)
    fetched = len(store.fetched)
    assert catalog.fetch_file(manifest, "unet/config.json") == whole / "unet/config.json"
    assert len(store.fetched) == fetched


def test_damaged_copy_of_one_file_is_fetched_again(tmp_path: Path, folder: Path) -> None:
    store = CountingStore(tmp_path / "store")
    manifest = Catalog(store, tmp_path / "cache").commit(model(), folder)
    path = Catalog(store, tmp_path / "cache").fetch_file(manifest, "unet/config.json")
    path.write_bytes(b"{}")
    assert Catalog(store, tmp_path / "cache").fetch_file(manifest, "unet/config.json").read_bytes() == b'{"layers": 1}'


def test_one_file_that_is_not_the_committed_one_is_refused(tmp_path: Path, folder: Path) -> None:
    catalog = Catalog(DirectoryStore(tmp_path / "store"), tmp_path / "cache")
    manifest = catalog.commit(model(), folder)
    stored = next((tmp_path / "store").rglob("config.json"))
    stored.chmod(0o600)
    stored.write_bytes(b'{"layers": 2}')
    for _ in range(2):
        with pytest.raises(IntegrityError):
            catalog.fetch_file(manifest, "unet/config.json")
    with pytest.raises(NotFoundError, match="has no file"):
        catalog.fetch_file(manifest, "none.json")
