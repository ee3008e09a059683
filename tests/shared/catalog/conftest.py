"""A catalog on a folder and on Ceph, and something to commit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shared.catalog import Catalog
from shared.storage import DirectoryStore, ObjectStore, S3Store
from tests.servers.s3_server import S3Server


@pytest.fixture(params=["directory", pytest.param("ceph", marks=pytest.mark.server)])
def store(request: pytest.FixtureRequest, tmp_path: Path, open_bucket: Callable[[S3Server], S3Store]) -> ObjectStore:
    """An empty store."""
    if request.param == "directory":
        return DirectoryStore(tmp_path / "store")
    return open_bucket(request.getfixturevalue("ceph_server"))


@pytest.fixture
def catalog(store: ObjectStore, tmp_path: Path) -> Catalog:
    """A catalog with an empty cache."""
    return Catalog(store, tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small diffusers-like folder."""
    root = tmp_path / "folder"
    (root / "unet").mkdir(parents=True)
    (root / "model_index.json").write_bytes(b"{}")
    (root / "unet" / "config.json").write_bytes(b'{"layers": 1}')
    (root / "unet" / "weights.safetensors").write_bytes(bytes(range(256)) * 1000)
    return root
