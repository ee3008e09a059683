"""migrate and bootstrap: an operator's first commands, repeated without harm."""

from __future__ import annotations

import re
import secrets
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from shared.cli.supervisor import SERVICES
from shared.database import Database
from shared.http.migrations import reasons_to_migrate
from shared.settings import get_settings
from shared.storage.buckets import PRINCIPALS
from shared.storage.minio_users import MinioUsers
from tests.servers.minio_admin import run_minio_admin
from tests.servers.processes import free_port

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer
    from tests.servers.s3_server import S3Server
    from tests.shared.cli.conftest import Lethe


@pytest.fixture(autouse=True)
def settings_read_anew() -> None:
    get_settings.cache_clear()


@pytest.mark.server
def test_migrate_tells_what_it_ran(lethe: Lethe, monkeypatch: pytest.MonkeyPatch, postgres_server: PostgresServer) -> None:
    monkeypatch.setenv("LETHE_DATABASE_URL", postgres_server.new_database())
    assert lethe("migrate") == 0
    assert "tables of job" in lethe.out
    assert "1 steps" in lethe.out
    assert lethe("migrate") == 0
    assert "1 steps" not in lethe.out
    assert "up to date" in lethe.out


@pytest.mark.server
def test_migrate_lets_the_services_use_the_tables(lethe: Lethe, monkeypatch: pytest.MonkeyPatch, postgres_server: PostgresServer) -> None:
    owner = make_url(postgres_server.new_database())
    services = owner.set(username=f"services_{secrets.token_hex(4)}", password="open-sesame")
    monkeypatch.setenv("LETHE_DATABASE_URL", owner.render_as_string(hide_password=False))
    monkeypatch.setenv("LETHE_SERVICES_DATABASE_URL", services.render_as_string(hide_password=False))
    for outcome in ("made", "was there"):
        assert lethe("migrate") == 0, lethe.err
        assert re.search(rf"{services.username}: role +{outcome}", lethe.out)
    assert "open-sesame" not in lethe.out + lethe.err
    with closing(Database(services.render_as_string(hide_password=False))) as database:
        assert reasons_to_migrate(database) == []


@pytest.mark.server
def test_role_of_the_owner_is_no_role_of_services(lethe: Lethe, monkeypatch: pytest.MonkeyPatch, postgres_server: PostgresServer) -> None:
    for name in ("LETHE_DATABASE_URL", "LETHE_SERVICES_DATABASE_URL"):
        monkeypatch.setenv(name, postgres_server.new_database())
    assert lethe("migrate") == 2
    assert "must name a role, and the database" in lethe.err
    monkeypatch.setenv("LETHE_DATABASE_URL", get_settings().services_database_url.get_secret_value())  # type: ignore[union-attr]
    get_settings.cache_clear()
    assert lethe("migrate") == 2
    assert "name another role" in lethe.err
    with closing(Database.open(get_settings())) as database:
        assert len(reasons_to_migrate(database)) == 1  # what fails has changed nothing


def test_migrate_without_a_database_ends_with_three(lethe: Lethe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_DATABASE_URL", f"postgresql://lethe:open-sesame@127.0.0.1:{free_port()}/lethe")
    assert lethe("migrate", "--wait", "0") == 3
    assert "The database does not answer" in lethe.err
    assert "open-sesame" not in lethe.err


@pytest.mark.server
def test_bootstrap_makes_everything_and_may_be_repeated(
    lethe: Lethe, monkeypatch: pytest.MonkeyPatch, ceph_server: S3Server, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    for name, value in {
        "LETHE_STORE": "s3",
        "LETHE_S3_ENDPOINT": ceph_server.endpoint,
        "LETHE_S3_ACCESS_KEY": ceph_server.access_key,
        "LETHE_S3_SECRET_KEY": ceph_server.secret_key,
        "LETHE_S3_SECURE": "false",
        "LETHE_S3_BUCKET": "bootstrapped",
        "LETHE_AUDIT_BUCKET": "bootstrapped-audit",
        "LETHE_DATABASE_URL": postgres_server.new_database(),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)  # as in an image, where there is no checkout
    granted = ["--principal", "sampler=arn:aws:iam:::user/lethe"]
    assert lethe("bootstrap", "--audit-retention-days", "1", *granted) == 0, lethe.err
    assert "made" in lethe.out
    assert "granted to sampler" in lethe.out
    assert "No policy was granted to detector, mitigator, trainer:" in lethe.err
    assert lethe("bootstrap", "--audit-retention-days", "1") == 0
    assert "was there" in lethe.out
    assert "up to date" in lethe.out
    assert "granted" not in lethe.out
    assert "No policy was granted to detector, mitigator, sampler, trainer: " in lethe.err
    assert "LETHE_S3_PRINCIPALS" in lethe.err

    get_settings.cache_clear()
    monkeypatch.setenv("LETHE_S3_PRINCIPALS", ", ".join(f"{service}=arn:aws:iam:::user/lethe" for service in SERVICES))
    assert lethe("bootstrap", "--audit-retention-days", "1") == 0
    assert re.findall(r"(\S+): policy +granted to (.*\S)", lethe.out) == [
        (bucket, "detector, mitigator, sampler, trainer") for bucket in ("bootstrapped", "bootstrapped-audit")
    ]
    assert "No policy" not in lethe.err
    assert lethe("bootstrap", "--audit-retention-days", "1", *granted) == 0
    assert "granted to sampler\n" in lethe.out, "what is asked by hand counts"


@pytest.fixture
def on_ceph(monkeypatch: pytest.MonkeyPatch, ceph_server: S3Server) -> None:
    """Settings of a store, with a bucket of its own, and no database but a file."""
    for name, value in {
        "LETHE_STORE": "s3",
        "LETHE_S3_ENDPOINT": ceph_server.endpoint,
        "LETHE_S3_ACCESS_KEY": ceph_server.access_key,
        "LETHE_S3_SECRET_KEY": ceph_server.secret_key,
        "LETHE_S3_SECURE": "false",
        "LETHE_S3_BUCKET": f"users-{secrets.token_hex(4)}",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Access key and secret key of each user of the store."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    for name in PRINCIPALS:
        (folder / f"{name}_s3_access_key").write_text(f"{name}-1")
        (folder / f"{name}_s3_secret_key").write_text(f"the secret of {name}")
    return folder


@pytest.mark.server
@pytest.mark.usefixtures("on_ceph")
def test_bootstrap_makes_the_users_of_minio(lethe: Lethe, monkeypatch: pytest.MonkeyPatch, pairs: Path) -> None:
    opened = MinioUsers.open
    with run_minio_admin() as administration:
        elsewhere = {"s3_endpoint": administration.endpoint}
        monkeypatch.setattr(MinioUsers, "open", lambda settings: opened(settings.model_copy(update=elsewhere)))
        for _ in range(2):
            assert lethe("bootstrap", "--minio-users", str(pairs)) == 0, lethe.err
            assert "No policy" not in lethe.err
            assert administration.users == {f"{name}-1": f"the secret of {name}" for name in PRINCIPALS}
    assert "the secret of" not in lethe.out + lethe.err


@pytest.mark.server
@pytest.mark.usefixtures("on_ceph")
def test_store_that_has_no_users_of_minio_is_told_so(lethe: Lethe, pairs: Path) -> None:
    assert lethe("bootstrap", "--minio-users", str(pairs)) == 2
    assert "LETHE_S3_PRINCIPALS instead" in lethe.err


@pytest.mark.server
@pytest.mark.usefixtures("on_ceph")
def test_users_whose_keys_are_missing_are_told_before_anything_is_made(lethe: Lethe, tmp_path: Path) -> None:
    assert lethe("bootstrap", "--minio-users", str(tmp_path)) == 2
    assert "trainer_s3_access_key cannot be read" in lethe.err.replace("\n", "")
    assert lethe.out == ""


def test_bootstrap_of_a_folder_and_a_file_needs_nothing(lethe: Lethe, tmp_path: Path) -> None:
    assert lethe("bootstrap") == 0
    assert "conditional_put" in lethe.out
    assert "policy" not in lethe.err, "a folder has none"
    assert (tmp_path / "var" / "lethe.db").is_file()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"LETHE_DATABASE_URL": "mysql://u:open-sesame@h/d"}, "LETHE_DATABASE_URL names 'mysql'"),
        ({"LETHE_STORE": "s3", "LETHE_S3_ENDPOINT": ""}, "LETHE_STORE=s3 needs LETHE_S3_ENDPOINT"),
    ],
)
def test_settings_that_cannot_be_used_are_named(lethe: Lethe, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], told: str) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert lethe("bootstrap") == 2
    assert told in lethe.err
    assert "open-sesame" not in lethe.err


def test_policy_that_cannot_be_read_is_told_before_anything_is_made(lethe: Lethe, tmp_path: Path) -> None:
    assert lethe("bootstrap", "--policies", str(tmp_path / "none"), "--principal", "trainer=arn:aws:iam:::user/t") == 2
    assert "cannot be read" in lethe.err
    assert not (tmp_path / "var").exists()


@pytest.mark.parametrize("given", ["trainer", "=arn", "trainer="])
def test_principal_without_service_or_name_is_wrongly_asked(lethe: Lethe, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    assert lethe("bootstrap", "--principal", given) == 2
    assert "service=principal" in lethe.err
    monkeypatch.setenv("LETHE_S3_PRINCIPALS", f"sampler=arn,{given}")
    get_settings.cache_clear()
    assert lethe("bootstrap") == 2
    assert "LETHE_S3_PRINCIPALS" in lethe.err
