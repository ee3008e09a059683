"""Buckets: made and made again, whatever the server can do, with policies that each service's credentials meet."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path

import pytest
from minio.commonconfig import ENABLED, Filter
from minio.error import S3Error
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule
from pydantic import SecretStr

from shared.errors import ConflictError, InvalidRequestError, UnavailableError
from shared.settings import Settings
from shared.storage import S3Store
from shared.storage.buckets import OLD_VERSIONS_DAYS, POLICIES, POLICY_BUCKET, PRINCIPALS, SERVICES, Buckets, bucket_policy, open_buckets
from shared.storage.fitness import PING
from tests.fixtures.servers import connect
from tests.servers.ceph import CephCluster
from tests.servers.processes import free_port
from tests.servers.s3_server import S3Server

# What the services keep, and what they do not.
FOLDERS = {
    *("datasets", "models", "galleries", "calibrations", "checkpoints", "searches", "generations"),
    *("aliases/models", "aliases/galleries", "aliases/calibrations", "elsewhere"),
}


def settings_of(server: S3Server) -> Settings:
    return Settings(
        store="s3",
        s3_endpoint=server.endpoint,
        s3_access_key=SecretStr(server.access_key),
        s3_secret_key=SecretStr(server.secret_key),
        s3_secure=False,
    )


@pytest.fixture
def buckets(ceph_server: S3Server) -> Iterator[Buckets]:
    with closing(open_buckets(settings_of(ceph_server))) as opened:
        yield opened


@pytest.fixture
def name() -> str:
    return f"bucket-{secrets.token_hex(6)}"


@pytest.mark.server
def test_bucket_keeps_versions_and_expires_leftovers(buckets: Buckets, name: str) -> None:
    assert buckets.prepare(name, honours_conditions=lambda: True) == {"bucket": "made", "versions": "on", "lifecycle": "on"}
    buckets._client.put_object(bucket_name=name, object_name="models/there", data=BytesIO(b"there"), length=5)
    again = buckets.prepare(name, honours_conditions=lambda: False)
    assert again == {"bucket": "was there", "versions": "left as they were", "lifecycle": "on"}
    assert buckets._client.get_bucket_versioning(bucket_name=name).status == "Enabled"
    lifecycle = buckets._client.get_bucket_lifecycle(bucket_name=name)
    assert lifecycle is not None
    rules = {rule.rule_id: rule for rule in lifecycle.rules}
    old = rules["leftovers"].noncurrent_version_expiration
    assert old is not None
    assert old.noncurrent_days == OLD_VERSIONS_DAYS
    assert rules["leftovers"].abort_incomplete_multipart_upload is not None
    assert rules["probes"].expiration is not None


@pytest.mark.server
def test_versions_give_way_where_they_cost_conditional_put(buckets: Buckets, ceph_server: S3Server, name: str) -> None:
    told = buckets.prepare(name, honours_conditions=lambda: honours_conditions(ceph_server, name))
    assert told["versions"].startswith("off, because this server ignores conditional PUT")
    assert honours_conditions(ceph_server, name)


@pytest.mark.server
def test_bucket_that_an_earlier_run_was_killed_at_is_made_ready(buckets: Buckets, ceph_server: S3Server, name: str) -> None:
    def die() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        buckets.prepare(name, honours_conditions=die)
    assert not honours_conditions(ceph_server, name)
    told = buckets.prepare(name, honours_conditions=lambda: honours_conditions(ceph_server, name))
    assert (told["bucket"], told["lifecycle"]) == ("was there", "on")
    assert honours_conditions(ceph_server, name)


@pytest.mark.server
def test_rules_of_expiry_that_the_bucket_has_stay(buckets: Buckets, name: str) -> None:
    buckets.prepare(name, honours_conditions=lambda: True)
    ward = Rule(status=ENABLED, rule_id="ward", rule_filter=Filter(prefix="ward/"), expiration=Expiration(days=7))
    buckets._client.set_bucket_lifecycle(bucket_name=name, config=LifecycleConfig([ward]))
    assert buckets.prepare(name, honours_conditions=lambda: True)["lifecycle"].startswith("left as it was")
    lifecycle = buckets._client.get_bucket_lifecycle(bucket_name=name)
    assert lifecycle is not None
    assert [rule.rule_id for rule in lifecycle.rules] == ["ward"]


def honours_conditions(server: S3Server, bucket: str) -> bool:
    """What a store that is opened now finds."""
    with closing(connect(server, bucket)) as store:
        return store.probe()["conditional_put"]


@pytest.mark.server
@pytest.mark.parametrize("server", ["moto_server", "rclone_server"])
def test_what_a_server_cannot_do_is_told_and_done_without(request: pytest.FixtureRequest, server: str, name: str) -> None:
    with closing(open_buckets(settings_of(request.getfixturevalue(server)))) as opened:
        told = opened.prepare(name, honours_conditions=lambda: True)
        assert told["bucket"] == "made"
        assert opened.prepare(name, honours_conditions=lambda: True)["bucket"] == "was there"
    if server == "rclone_server":
        assert told["lifecycle"].startswith("not supported by this server")


@pytest.mark.server
def test_object_of_the_audit_bucket_outlives_its_deletion(buckets: Buckets, ceph_server: S3Server, name: str) -> None:
    assert buckets.prepare_audit(name, retention_days=2) == {"bucket": "made", "object lock": "2 days"}
    assert buckets.prepare_audit(name, retention_days=2)["bucket"] == "was there"
    with closing(connect(ceph_server, name)) as store:
        store.put(key="anchor", data=b"head", if_absent=True)
    version = next(iter(buckets._client.list_objects(bucket_name=name, include_version=True))).version_id
    with pytest.raises(S3Error, match="AccessDenied"):
        buckets._client.remove_object(bucket_name=name, object_name="anchor", version_id=version)


@pytest.mark.server
def test_audit_bucket_without_lock_is_refused(buckets: Buckets, name: str) -> None:
    buckets.prepare(name, honours_conditions=lambda: True)
    with pytest.raises(ConflictError, match="made without object lock"):
        buckets.prepare_audit(name, retention_days=2)


@pytest.mark.server
def test_each_service_does_its_work_and_nothing_else(buckets: Buckets, ceph_cluster: CephCluster, name: str) -> None:
    buckets.prepare(name, honours_conditions=lambda: honours_conditions(ceph_cluster.server, name))
    users = {service: ceph_cluster.add_user(f"{service}-{name}") for service in SERVICES}
    buckets.grant(name, bucket_policy(POLICIES, {service: user.principal for service, user in users.items()}, bucket=name))
    with closing(connect(ceph_cluster.server, name)) as owner:
        for folder in FOLDERS:
            owner.put(key=f"{folder}/there", data=b"there")
    galleries = {"galleries", "aliases/galleries"}
    may_write = {
        "trainer": {"datasets", "models", "aliases/models", *galleries, "checkpoints", "searches"},
        "sampler": {"generations"},
        "detector": {"calibrations", "aliases/calibrations", *galleries},
        "mitigator": set(),
    }
    aliases = {"aliases/models", "aliases/galleries", "aliases/calibrations"}
    may_read = {
        "trainer": FOLDERS - {"generations", "elsewhere"},
        "sampler": {"models", "generations"} | aliases,
        "detector": {"datasets", "models", "galleries", "calibrations"} | aliases,
        "mitigator": {"models"} | aliases,
    }
    for service, user in users.items():
        with closing(connect(replace(ceph_cluster.server, access_key=user.access_key, secret_key=user.secret_key), name)) as store:
            assert store.probe()["read_back"]
            assert {folder for folder in FOLDERS if succeeds(store, f"{folder}/there", write=False)} == may_read[service]
            assert {folder for folder in FOLDERS if succeeds(store, f"{folder}/by-{service}", write=True)} == may_write[service]
            if service != "trainer":
                with pytest.raises(UnavailableError, match="AccessDenied"):
                    store.delete(key="models/there")


def succeeds(store: S3Store, key: str, *, write: bool) -> bool:
    """Whether the credentials may do it."""
    try:
        store.put(key=key, data=b"x", if_absent=True) if write else store.get(key=key)
    except UnavailableError as error:
        if "AccessDenied" not in str(error):
            raise
        return False
    return True


@pytest.mark.server
def test_anchors_of_the_audit_bucket_are_written_by_services_and_deleted_by_none(
    buckets: Buckets, ceph_cluster: CephCluster, name: str
) -> None:
    buckets.prepare_audit(name, retention_days=1)
    user = ceph_cluster.add_user(f"auditor-{name}")
    buckets.grant(name, bucket_policy(POLICIES, {"sampler": user.principal}, bucket=name, is_audit=True))
    with closing(connect(replace(ceph_cluster.server, access_key=user.access_key, secret_key=user.secret_key), name)) as store:
        store.put(key="audit-log/anchors/1", data=b"head", if_absent=True)
        assert [found.key for found in store.list(prefix="audit-log/")] == ["audit-log/anchors/1"]
        with pytest.raises(UnavailableError, match="AccessDenied"):
            store.delete(key="audit-log/anchors/1")
        with pytest.raises(UnavailableError, match="AccessDenied"):
            store.put(key="models/1", data=b"head")


@pytest.mark.server
def test_who_backs_up_reads_what_others_wrote_and_writes_nothing(buckets: Buckets, ceph_cluster: CephCluster, name: str) -> None:
    buckets.prepare(name, honours_conditions=lambda: True)
    users = {who: ceph_cluster.add_user(f"{who}-{name}") for who in ("sampler", "operator", "backup")}
    principals = {who: user.principal for who, user in users.items()}
    buckets.grant(name, bucket_policy(POLICIES, principals, bucket=name))
    servers = {who: replace(ceph_cluster.server, access_key=user.access_key, secret_key=user.secret_key) for who, user in users.items()}
    with closing(connect(servers["sampler"], name)) as sampler:
        sampler.put(key="generations/one", data=b"drawn")
    with closing(connect(servers["operator"], name)) as operator:
        operator.put(key="audit-log/anchors/1", data=b"head", if_absent=True)
        with pytest.raises(UnavailableError, match="AccessDenied"):
            operator.get(key="generations/one")
    # The object is the sampler's: the owner of the bucket does not read it by being that.
    with closing(connect(ceph_cluster.server, name)) as owner, pytest.raises(UnavailableError, match="AccessDenied"):
        owner.get(key="generations/one")
    with closing(connect(servers["backup"], name)) as backup:
        assert [backup.get(key=found.key) for prefix in ("audit-log/", "generations/") for found in backup.list(prefix=prefix)] == [
            b"head",
            b"drawn",
        ]
        assert not succeeds(backup, "generations/two", write=True)
        with pytest.raises(UnavailableError, match="AccessDenied"):
            backup.delete(key="generations/one")
    assert "s3:PutObject" not in str(bucket_policy(POLICIES, {"backup": "arn"}, bucket=name, is_audit=True))


@pytest.mark.parametrize("service", [*PRINCIPALS, "audit"])
def test_policy_names_the_bucket_and_no_wildcard_action(service: str) -> None:
    statements = json.loads((POLICIES / f"{service}.json").read_text(encoding="utf-8"))["Statement"]
    assert all(resource == POLICY_BUCKET or resource.startswith(f"{POLICY_BUCKET}/") for one in statements for resource in one["Resource"])
    assert not [action for one in statements for action in one["Action"] if "*" in action]


@pytest.mark.parametrize("service", [*PRINCIPALS, "audit"])
def test_what_is_looked_for_by_readiness_may_be_read(service: str) -> None:
    # MinIO says 403 of what one may not read, where Ceph, which the other tests ask, says 404: no service would be ready there.
    assert "s3:GetObject" in granted(service, PING)


def test_writers_of_the_audit_bucket_may_lock_what_they_write() -> None:
    # MinIO asks them for it where the bucket locks its objects by default; Ceph does not.
    for key in ("audit-log/anchors/1", "probe/1"):
        assert {"s3:PutObject", "s3:PutObjectRetention"} <= granted("audit", key)


def granted(service: str, key: str) -> set[str]:
    """The actions that a policy allows for an object."""
    statements = json.loads((POLICIES / f"{service}.json").read_text(encoding="utf-8"))["Statement"]
    return {
        action
        for one in statements
        for action in one["Action"]
        if any(fnmatchcase(f"{POLICY_BUCKET}/{key}", resource) for resource in one["Resource"])
    }


def test_policy_is_made_for_the_bucket_and_principal_at_hand() -> None:
    policy = bucket_policy(POLICIES, {"mitigator": "arn:aws:iam:::user/m"}, bucket="ward-a")
    assert {statement["Sid"] for statement in policy["Statement"]} == {"mitigator0", "mitigator1", "mitigator2", "mitigator3"}
    assert all(statement["Principal"] == {"AWS": ["arn:aws:iam:::user/m"]} for statement in policy["Statement"])
    assert policy["Statement"][1]["Resource"] == ["arn:aws:s3:::ward-a/models/*", "arn:aws:s3:::ward-a/aliases/*"]


def test_unknown_service_and_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="no service 'painter'"):
        bucket_policy(POLICIES, {"painter": "arn:aws:iam:::user/p"}, bucket="lethe")
    with pytest.raises(InvalidRequestError, match=r"trainer\.json cannot be read"):
        bucket_policy(tmp_path, {"trainer": "arn:aws:iam:::user/t"}, bucket="lethe")


def test_server_that_is_away_is_unavailable() -> None:
    away = S3Server(name="away", endpoint=f"127.0.0.1:{free_port()}")
    with closing(open_buckets(settings_of(away))) as opened, pytest.raises(UnavailableError, match="does not answer"):
        opened.prepare("lethe", honours_conditions=lambda: True)


@pytest.mark.server
def test_wrong_credentials_are_refused_without_telling_them(ceph_server: S3Server) -> None:
    with closing(open_buckets(settings_of(replace(ceph_server, secret_key="wrong-secret")))) as opened:
        with pytest.raises(UnavailableError, match="refused the request") as caught:
            opened.prepare("lethe", honours_conditions=lambda: True)
        assert "wrong-secret" not in str(caught.value)
