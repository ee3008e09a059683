"""Users of a MinIO-like store, made by its administration: each with its own policy, again and again, and refusals by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.errors import InvalidRequestError, UnavailableError
from shared.settings import Settings
from shared.storage.buckets import POLICIES, PRINCIPALS
from shared.storage.minio_users import MinioUser, MinioUsers, read_users
from tests.servers.minio_admin import MinioAdministration, run_minio_admin
from tests.servers.processes import free_port
from tests.servers.s3_server import ACCESS_KEY, SECRET_KEY

SOMEBODY = MinioUser("sampler", "sampler-1", "a secret of its own", [{"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn"]}])


@pytest.fixture
def server() -> Iterator[MinioAdministration]:
    with run_minio_admin() as administration:
        yield administration


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The pairs of all users, as deploy/compose/up.py makes them."""
    for name in PRINCIPALS:
        (tmp_path / f"{name}_s3_access_key").write_text(f"{name}-1\n")
        (tmp_path / f"{name}_s3_secret_key").write_text(f"the secret of {name}\n")
    return tmp_path


def settings_of(endpoint: str, *, secret_key: str = SECRET_KEY, audit_bucket: str = "ward-audit") -> Settings:
    return Settings(
        store="s3",
        s3_endpoint=endpoint,
        s3_bucket="ward",
        audit_bucket=audit_bucket,
        s3_access_key=SecretStr(ACCESS_KEY),
        s3_secret_key=SecretStr(secret_key),
        s3_secure=False,
    )


def keep(settings: Settings, *users: MinioUser) -> None:
    with closing(MinioUsers.open(settings)) as opened:
        for user in users:
            opened.keep(user)


def test_each_has_its_secret_and_its_policy(server: MinioAdministration, folder: Path) -> None:
    settings = settings_of(server.endpoint)
    keep(settings, *read_users(folder, POLICIES, settings))
    assert server.users == {f"{name}-1": f"the secret of {name}" for name in PRINCIPALS}
    assert server.granted == {f"{name}-1": f"lethe-{name}" for name in PRINCIPALS}
    for name in PRINCIPALS:
        shipped = [
            json.loads((POLICIES / f"{file}.json").read_text().replace("arn:aws:s3:::lethe", f"arn:aws:s3:::{bucket}"))["Statement"]
            for file, bucket in ((name, "ward"), ("backup" if name == "backup" else "audit", "ward-audit"))
        ]
        assert server.allowed_to(f"{name}-1") == shipped[0] + shipped[1]


def test_one_bucket_for_everything_needs_no_other_statements(server: MinioAdministration, folder: Path) -> None:
    users = read_users(folder, POLICIES, settings_of(server.endpoint, audit_bucket=""))
    resources = {resource for user in users for statement in user.statements for resource in statement["Resource"]}
    assert {resource.partition("/")[0] for resource in resources} == {"arn:aws:s3:::ward"}


def test_again_renews_secret_and_policy(server: MinioAdministration) -> None:
    settings = settings_of(server.endpoint)
    keep(settings, SOMEBODY)
    keep(settings, MinioUser(SOMEBODY.name, SOMEBODY.access_key, "another secret", []))
    assert server.users == {"sampler-1": "another secret"}
    assert server.allowed_to("sampler-1") == []


def test_file_that_is_missing_or_empty_is_named(folder: Path) -> None:
    (folder / "detector_s3_secret_key").write_text("\n")
    with pytest.raises(InvalidRequestError, match="detector_s3_secret_key is empty"):
        read_users(folder, POLICIES, settings_of("store:9000"))
    (folder / "detector_s3_secret_key").unlink()
    with pytest.raises(InvalidRequestError, match="detector_s3_secret_key cannot be read"):
        read_users(folder, POLICIES, settings_of("store:9000"))


@pytest.mark.parametrize("taken", ["trainer-1", ACCESS_KEY])
def test_access_key_of_two_is_refused(folder: Path, taken: str) -> None:
    (folder / "sampler_s3_access_key").write_text(taken)
    with pytest.raises(InvalidRequestError, match="each needs its own"):
        read_users(folder, POLICIES, settings_of("store:9000"))


def test_folder_as_store_has_no_users(folder: Path) -> None:
    with pytest.raises(InvalidRequestError, match="LETHE_STORE=s3"):
        read_users(folder, POLICIES, Settings())


def test_refusal_is_told_by_its_code_alone(server: MinioAdministration) -> None:
    with pytest.raises(UnavailableError, match=r"\(SignatureDoesNotMatch\)") as caught:
        keep(settings_of(server.endpoint, secret_key="wrong-secret"), SOMEBODY)
    assert "wrong-secret" not in str(caught.value)
    assert "what was signed" not in str(caught.value)
    server.answers = [
        (400, "<Error><Code>InvalidArgument</Code></Error>"),
        (400, "no document"),
        (400, '["Code"]'),
        (404, '{"Code": "XMinioAdminNoSuchPolicy"}'),
    ]
    for told in ("InvalidArgument", "400", "400", "XMinioAdminNoSuchPolicy"):
        with pytest.raises(UnavailableError, match=rf"\({told}\)"):
            keep(settings_of(server.endpoint), SOMEBODY)
    assert server.users == {}


@pytest.mark.parametrize("status", [404, 405, 501])
def test_server_without_such_users_is_no_passing_failure(server: MinioAdministration, status: int) -> None:
    server.answers = [(status, "")]
    with pytest.raises(InvalidRequestError, match="LETHE_S3_PRINCIPALS"):
        keep(settings_of(server.endpoint), SOMEBODY)


def test_server_that_is_away_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="does not answer"):
        keep(settings_of(f"127.0.0.1:{free_port()}"), SOMEBODY)


@pytest.mark.parametrize("shown", [repr(SOMEBODY), str(SOMEBODY)])
def test_secret_is_not_shown(shown: str) -> None:
    assert "a secret" not in shown
