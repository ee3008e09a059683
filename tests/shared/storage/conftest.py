"""The stores that the contract holds for: a folder, and three S3 servers over the wire."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.storage import DirectoryStore, ObjectStore, S3Store
from tests.servers.s3_server import S3Server

SERVERS = ("ceph", "moto", "rclone")


@pytest.fixture(scope="session", params=["directory", *(pytest.param(name, marks=pytest.mark.server) for name in SERVERS)])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, open_bucket: Callable[[S3Server], S3Store]
) -> ObjectStore:
    """One store of each sort; tests keep apart by their `folder`."""
    if request.param == "directory":
        return DirectoryStore(tmp_path_factory.mktemp("store"))
    return open_bucket(request.getfixturevalue(f"{request.param}_server"))


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> str:
    """A prefix that belongs to one test."""
    return f"{request.function.__name__}/"
