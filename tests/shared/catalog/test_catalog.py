"""Things are committed whole, once and for ever, and read verified."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from shared.catalog import Catalog, ModelManifest, new_id
from shared.catalog.catalog import FOLDERS
from shared.catalog.digests import content_digest
from shared.catalog.folders import describe_folder
from shared.errors import AlreadyExistsError, IntegrityError, InvalidRequestError, NotFoundError, UnavailableError
from shared.storage import DirectoryStore, ObjectInfo, ObjectStore
from tests.shared.catalog.examples import dataset, model

ROOT = Path(__file__).parents[3]
# A commit that stops for good at one point: before the link that gives the numbered file its name.
COMMIT = """
import os, sys, time
from pathlib import Path
from shared.catalog import Catalog
from shared.storage import DirectoryStore
from tests.shared.catalog.examples import model
store, folder, identifier, stop_at = sys.argv[1:]
placed = 0
def pausing(place):
    def paused(*arguments):
        global placed
        if placed == int(stop_at):
            print("paused", flush=True)
            time.sleep(60)
        placed += 1
        return place(*arguments)
    return paused
os.link = pausing(os.link)
Path.replace = pausing(Path.replace)
Catalog(DirectoryStore(Path(store)), Path(store)).commit(model(identifier), Path(folder))
"""


class FailingStore(DirectoryStore):
    """A directory store whose files change, or that goes away, at a chosen key."""

    def __init__(self, root: Path, *, fail_at: str, error: Exception | None) -> None:
        super().__init__(root)
        self._fail_at, self._error = fail_at, error

    def put_file(self, *, key: str, path: Path) -> ObjectInfo:
        """Fail at the chosen key, or write other bytes there."""
        if not key.endswith(self._fail_at):
            return super().put_file(key=key, path=path)
        if self._error is not None:
            raise self._error
        return self.put(key=key, data=b"other bytes")


def manifest_failures() -> float:
    return REGISTRY.get_sample_value("lethe_storage_verification_failures_total", {"kind": "manifest"}) or 0.0


def rewrite(store: ObjectStore, manifest: ModelManifest, **changes: Any) -> None:
    """Overwrite a stored manifest, its digest made to fit."""
    key = f"models/{manifest.id}/manifest.json"
    content = json.loads(store.get(key=key)) | changes
    store.put(key=key, data=json.dumps({**content, "digest": content_digest(content)}).encode())


def test_committed_thing_is_read_back_equal(catalog: Catalog, folder: Path) -> None:
    committed = catalog.commit(model(), folder)
    assert committed.files == describe_folder(folder)
    assert catalog.get("model", committed.id) == committed
    assert catalog.get("model", committed.id).spec == {"steps": 100, "learning_rate": 0.001}
    assert catalog.read_file(committed, "unet/config.json") == b'{"layers": 1}'


def test_digest_covers_everything_but_itself(catalog: Catalog, folder: Path) -> None:
    committed = catalog.commit(model(), folder)
    content = committed.model_dump(mode="json")
    assert committed.digest == content_digest(content)
    assert committed.digest != content_digest({**content, "name": "other"})


def test_layout_in_the_store_is_folder_id_file(store: ObjectStore, catalog: Catalog, folder: Path) -> None:
    identifier = catalog.commit(model(), folder).id
    keys = [info.key for info in store.list(prefix="models/")]
    names = ["manifest.json", "model_index.json", "unet/config.json", "unet/weights.safetensors"]
    assert keys == [f"models/{identifier}/{name}" for name in names]
    stored = json.loads(store.get(key=keys[0]))
    assert stored["files"][0].keys() == {"path", "size_bytes", "sha256"}
    assert (stored["id"], stored["kind"], stored["lineage"]) == (identifier, "model", {"dataset": "ds_1"})


def test_manifest_is_written_last(tmp_path: Path, folder: Path) -> None:
    gone = FailingStore(tmp_path / "store", fail_at="weights.safetensors", error=UnavailableError("away"))
    catalog, manifest = Catalog(gone, tmp_path / "cache"), model()
    with pytest.raises(UnavailableError):
        catalog.commit(manifest, folder)
    assert gone.exists(key=f"models/{manifest.id}/model_index.json")
    with pytest.raises(NotFoundError):
        catalog.get("model", manifest.id)
    assert catalog.list("model", 10) == ([], None)


def test_file_that_changes_during_the_commit_ends_it(tmp_path: Path, folder: Path) -> None:
    changing = FailingStore(tmp_path / "store", fail_at="config.json", error=None)
    manifest = model()
    with pytest.raises(IntegrityError, match=r"'unet/config\.json' of model .* changed while it was committed"):
        Catalog(changing, tmp_path / "cache").commit(manifest, folder)
    assert not changing.exists(key=f"models/{manifest.id}/manifest.json")


def test_repeated_commit_of_the_same_content_returns_the_first(catalog: Catalog, folder: Path) -> None:
    identifier = new_id("model")
    first = catalog.commit(model(identifier), folder)
    assert catalog.commit(model(identifier), folder) == first


def test_commit_of_other_content_under_a_committed_id_is_refused(store: ObjectStore, catalog: Catalog, folder: Path) -> None:
    identifier = new_id("model")
    first = catalog.commit(model(identifier), folder)
    with pytest.raises(AlreadyExistsError, match=f"model {identifier} is committed with other content"):
        catalog.commit(model(identifier, name="other"), folder)
    (folder / "model_index.json").write_bytes(b"[]")
    with pytest.raises(AlreadyExistsError):
        catalog.commit(model(identifier), folder)
    assert store.get(key=f"models/{identifier}/model_index.json") == b"{}"
    assert catalog.get("model", identifier) == first


def test_commit_that_loses_the_race_is_refused(store: ObjectStore, catalog: Catalog, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identifier = new_id("model")
    first = catalog.commit(model(identifier), folder)
    # The look before the upload saw nothing yet; the conditional write of the manifest is what decides.
    monkeypatch.setattr(store, "exists", lambda **_: False)
    with pytest.raises(AlreadyExistsError):
        catalog.commit(model(identifier, name="other"), folder)
    assert catalog.commit(model(identifier), folder) == first


@pytest.mark.parametrize("stop_at", [0, 1, 2, 3])
def test_killed_commit_leaves_nothing_and_can_be_repeated(tmp_path: Path, folder: Path, stop_at: int) -> None:
    identifier = new_id("model")
    command = [sys.executable, "-c", COMMIT, str(tmp_path / "store"), str(folder), identifier, str(stop_at)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "paused\n"
        os.kill(child.pid, signal.SIGKILL)
    store = DirectoryStore(tmp_path / "store")
    catalog = Catalog(store, tmp_path / "cache")
    assert len(store.list(prefix=f"models/{identifier}/")) == stop_at
    with pytest.raises(NotFoundError):
        catalog.get("model", identifier)
    assert catalog.list("model", 10) == ([], None)
    committed = catalog.commit(model(identifier), folder)
    assert catalog.get("model", identifier) == committed
    assert describe_folder(catalog.fetch(committed)) == committed.files


def test_folder_with_a_manifest_of_its_own_is_refused(catalog: Catalog, folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"{}")
    with pytest.raises(InvalidRequestError, match=r"manifest\.json"):
        catalog.commit(model(), folder)


@pytest.mark.parametrize("identifier", ["mdl_unknown", "ds_1", "", "../../etc/passwd", "mdl_a/b", "x" * 10_000])
def test_unknown_thing_is_named(catalog: Catalog, identifier: str) -> None:
    with pytest.raises(NotFoundError, match="There is no model") as caught:
        catalog.get("model", identifier)
    assert repr(identifier[:64]) in str(caught.value)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("position", [0, 10, 200, -3])
def test_changed_byte_of_a_manifest_is_an_integrity_error(store: ObjectStore, catalog: Catalog, folder: Path, position: int) -> None:
    committed = catalog.commit(model(), folder)
    key = f"models/{committed.id}/manifest.json"
    data = bytearray(store.get(key=key))
    data[position] ^= 1
    store.put(key=key, data=bytes(data))
    before = manifest_failures()
    with pytest.raises(IntegrityError, match=f"The manifest of model {committed.id}"):
        catalog.get("model", committed.id)
    with pytest.raises(IntegrityError):
        catalog.list("model", 10)
    assert manifest_failures() == before + 2


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b'"text"', b"\xff", b'{"digest": NaN, "a": NaN}', b"[" * 100_000])
def test_garbage_manifest_is_an_integrity_error(store: ObjectStore, catalog: Catalog, data: bytes) -> None:
    store.put(key="models/mdl_1/manifest.json", data=data)
    with pytest.raises(IntegrityError, match="The manifest of model mdl_1"):
        catalog.get("model", "mdl_1")


def test_manifest_of_another_thing_in_its_place_is_an_integrity_error(store: ObjectStore, catalog: Catalog, folder: Path) -> None:
    one, other = catalog.commit(model(), folder), catalog.commit(model(), folder)
    store.put(key=f"models/{one.id}/manifest.json", data=store.get(key=f"models/{other.id}/manifest.json"))
    with pytest.raises(IntegrityError):
        catalog.get("model", one.id)


@pytest.mark.parametrize(
    "changes", [{"seed": "none"}, {"kind": "dataset"}, {"files": [{"path": "../x", "size_bytes": 1, "sha256": "0" * 64}]}]
)
def test_manifest_of_another_shape_is_an_integrity_error(
    store: ObjectStore, catalog: Catalog, folder: Path, changes: dict[str, Any]
) -> None:
    committed = catalog.commit(model(), folder)
    rewrite(store, committed, **changes)
    with pytest.raises(IntegrityError):
        catalog.get("model", committed.id)


def test_field_of_a_later_version_is_left_out(store: ObjectStore, catalog: Catalog, folder: Path) -> None:
    committed = catalog.commit(model(), folder)
    rewrite(store, committed, released_by="policy 7")
    assert catalog.get("model", committed.id).model_dump(exclude={"digest"}) == committed.model_dump(exclude={"digest"})


def test_list_pages_newest_first(catalog: Catalog) -> None:
    made = [catalog.commit(model(name=f"model {number}")).id for number in range(5)]
    first, before = catalog.list("model", 2)
    second, next_before = catalog.list("model", 2, before=before)
    third, end = catalog.list("model", 2, before=next_before)
    assert [[item.id for item in page] for page in (first, second, third)] == [[made[4], made[3]], [made[2], made[1]], [made[0]]]
    assert (before, next_before, end) == (made[3], made[1], None)
    assert [item.name for item in first] == ["model 4", "model 3"]


def test_page_that_takes_the_rest_is_the_last(catalog: Catalog) -> None:
    made = [catalog.commit(model()).id for _ in range(3)]
    items, before = catalog.list("model", 3)
    assert ([item.id for item in items], before) == (made[::-1], None)


def test_list_keeps_kinds_apart_and_skips_what_is_not_committed(store: ObjectStore, catalog: Catalog) -> None:
    one, other = catalog.commit(model()), catalog.commit(dataset())
    store.put(key=f"models/{new_id('model')}/unet/config.json", data=b"")
    store.put(key="models/README", data=b"")
    store.put(key="models/strange/manifest.json", data=b"")
    assert catalog.list("model", 10) == ([one], None)
    assert catalog.list("dataset", 10) == ([other], None)
    assert catalog.list("gallery", 10) == ([], None)


def test_file_that_the_manifest_does_not_name_is_not_found(store: ObjectStore, catalog: Catalog, folder: Path) -> None:
    committed = catalog.commit(model(), folder)
    store.put(key=f"models/{committed.id}/planted", data=b"")
    for path in ("planted", "../x", "manifest.json"):
        with pytest.raises(NotFoundError, match="has no file"):
            catalog.read_file(committed, path)


def test_alias_points_where_it_was_set_last(catalog: Catalog) -> None:
    first, second = catalog.commit(model()), catalog.commit(model())
    catalog.set_alias("model", "champion", first.id)
    assert catalog.get_alias("model", "champion") == first.id
    catalog.set_alias("model", "champion", second.id)
    assert catalog.get_alias("model", "champion") == second.id
    with pytest.raises(NotFoundError, match="no alias 'champion' of a dataset"):
        catalog.get_alias("dataset", "champion")


def test_alias_of_something_unknown_is_refused(catalog: Catalog) -> None:
    with pytest.raises(NotFoundError, match="There is no model 'mdl_unknown'"):
        catalog.set_alias("model", "champion", "mdl_unknown")
    with pytest.raises(NotFoundError, match="no alias 'champion'"):
        catalog.get_alias("model", "champion")


@pytest.mark.parametrize("alias", ["", "A", "a/b", "..", "a" * 64, "a\n", "a b", "-a"])
def test_odd_alias_is_refused(catalog: Catalog, alias: str) -> None:
    committed = catalog.commit(model())
    with pytest.raises(InvalidRequestError) as caught:
        catalog.set_alias("model", alias, committed.id)
    assert caught.value.field == "alias"
    with pytest.raises(NotFoundError):
        catalog.get_alias("model", alias)


def test_damaged_alias_is_an_integrity_error(store: ObjectStore, catalog: Catalog) -> None:
    first, second = catalog.commit(model()), catalog.commit(model())
    catalog.set_alias("model", "champion", first.id)
    key = "aliases/models/champion.json"
    store.put(key=key, data=store.get(key=key).replace(first.id.encode(), second.id.encode()))
    with pytest.raises(IntegrityError, match="The alias 'champion'"):
        catalog.get_alias("model", "champion")


def test_every_kind_has_its_own_folder() -> None:
    assert sorted(FOLDERS.values()) == ["calibrations", "datasets", "galleries", "generations", "models"]
