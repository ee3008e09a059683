"""What the tests of faults share: catalogs on a real S3 server that may be slow, silent, full or dead."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shared.catalog import Catalog, ModelManifest, new_id
from shared.storage import ObjectStore, S3Store
from tests.fixtures.servers import connect
from tests.servers.ceph import CephCluster
from tests.servers.fault_proxy import FaultProxy
from tests.servers.s3_server import S3Server

MEBIBYTE = 1024**2


@pytest.fixture
def proxy(ceph_cluster: CephCluster) -> Iterator[FaultProxy]:
    """The only way to the store."""
    with FaultProxy(int(ceph_cluster.server.endpoint.rpartition(":")[2])) as standing:
        yield standing


@pytest.fixture
def bucket(ceph_server: S3Server) -> str:
    """A new bucket."""
    name = f"faults-{secrets.token_hex(6)}"
    ceph_server.make_bucket(name)
    return name


@pytest.fixture
def store_by_proxy(proxy: FaultProxy, bucket: str) -> Iterator[S3Store]:
    """The bucket as a service sees it that gives a silent server two seconds."""
    store = connect(S3Server(name="proxied", endpoint=proxy.endpoint), bucket, read_seconds=2)
    yield store
    store.close()


@pytest.fixture
def store(ceph_server: S3Server, bucket: str) -> Iterator[S3Store]:
    """The same bucket, straight."""
    opened = connect(ceph_server, bucket)
    yield opened
    opened.close()


@pytest.fixture
def catalog_on(tmp_path: Path) -> Iterator[Callable[[ObjectStore], Catalog]]:
    """Catalogs with caches of their own."""
    with ExitStack():
        yield lambda opened: Catalog(opened, tmp_path / f"cache-{secrets.token_hex(4)}")


def model_manifest(name: str = "a") -> ModelManifest:
    """A model that could be committed."""
    return ModelManifest(
        id=new_id("model"),
        name=name,
        architecture="tiny",
        dataset=None,
        base=None,
        spec={},
        metrics={},
        seed=0,
        code_version="test",
        lineage={},
    )


def weights(folder: Path, size_bytes: int, seed: str = "a") -> Path:
    """A folder with one large file, which no compression makes small."""
    folder.mkdir(parents=True)
    with (folder / "weights.safetensors").open("wb") as file:
        for number in range(-(-size_bytes // MEBIBYTE)):
            file.write(hashlib.sha256(f"{seed}{number}".encode()).digest() * (MEBIBYTE // 32))
    return folder
