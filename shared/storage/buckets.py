"""Buckets made ready for Lethe by an operator's command: versions, expiry of leftovers, object lock, policies."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import urllib3
from minio import Minio
from minio.commonconfig import ENABLED, GOVERNANCE, Filter
from minio.error import InvalidResponseError, MinioException, S3Error
from minio.lifecycleconfig import AbortIncompleteMultipartUpload, Expiration, LifecycleConfig, NoncurrentVersionExpiration, Rule
from minio.objectlockconfig import DAYS, ObjectLockConfig
from minio.versioningconfig import SUSPENDED, VersioningConfig

from shared.errors import ConflictError, InvalidRequestError, UnavailableError
from shared.settings import Settings
from shared.storage.connections import open_pool
from shared.storage.opening import given_setting
from shared.storage.s3 import error_code

# An object that was overwritten or deleted by mistake can be brought back for this long; superseded checkpoints cost room meanwhile.
OLD_VERSIONS_DAYS: Final = 7
# What a killed process left behind: parts of an upload, a probe.
LEFTOVERS_DAYS: Final = 1
# What each service may do, as IAM writes it.
POLICIES: Final = Path(__file__).parent / "policies"
# The bucket that the policy files name; the one of the settings takes its place.
POLICY_BUCKET: Final = "arn:aws:s3:::lethe"
SERVICES: Final = ("trainer", "sampler", "detector", "mitigator")
# Who may be somebody of their own to the store: services, the operator's command line, which anchors the audit log, and who copies both
# buckets. Where an object is its writer's, as on Ceph, not even the bucket's owner reads it without a policy that says so.
PRINCIPALS: Final = (*SERVICES, "operator", "backup")
_PROBES: Final = "probe/"
# The rules of expiry that are Lethe's.
_LEFTOVERS: Final = "leftovers"
_OLD_PROBES: Final = "probes"
_UNSUPPORTED: Final = {"NotImplemented", "MethodNotAllowed", "NotSupported", "UnsupportedOperation", "unreadable"}


class Buckets:
    """The buckets of one S3 server, changed with an operator's credentials; everything may be repeated."""

    def __init__(self, client: Minio, pool: urllib3.PoolManager) -> None:
        self._client = client
        self._pool = pool

    def close(self) -> None:
        """Close all idle connections."""
        self._pool.clear()

    def prepare(self, bucket: str, *, honours_conditions: Callable[[], bool]) -> dict[str, str]:
        """Make the bucket of all objects unless it is there, keep versions, expire leftovers; answers what became of each step.

        Versions are turned on in an empty bucket only, which an earlier run may have been killed at, and off again where the server
        then ignores conditional PUT (Ceph 16 does): what is committed never changes, so that one writer wins counts for more.
        """
        made = self._make(bucket, object_lock=False)
        is_empty = self._is_empty(bucket)
        return {
            "bucket": made,
            "versions": self._try(lambda: self._keep_versions(bucket, honours_conditions)) if is_empty else "left as they were",
            "lifecycle": self._try(lambda: self._expire_leftovers(bucket)),
        }

    def prepare_audit(self, bucket: str, *, retention_days: int) -> dict[str, str]:
        """Make the bucket of the audit log's anchors, whose objects nobody may change or delete before their time."""
        made = self._make(bucket, object_lock=True)
        with _answering():
            try:
                self._client.get_object_lock_config(bucket_name=bucket)
            except S3Error as error:
                if error.code not in {"ObjectLockConfigurationNotFoundError", "InvalidRequest"} | _UNSUPPORTED:
                    raise
                raise ConflictError(f"The bucket {bucket!r} was made without object lock, which cannot be added; name another.") from error
            if retention_days:
                lock = ObjectLockConfig(mode=GOVERNANCE, duration=retention_days, duration_unit=DAYS)
                self._client.set_object_lock_config(bucket_name=bucket, config=lock)
        return {"bucket": made, "object lock": f"{retention_days} days" if retention_days else "on, no days set"}

    def grant(self, bucket: str, policy: Mapping[str, Any]) -> None:
        """Replace the bucket's policy."""
        with _answering():
            self._client.set_bucket_policy(bucket_name=bucket, policy=json.dumps(policy))

    def _make(self, bucket: str, *, object_lock: bool) -> str:
        with _answering():
            if self._client.bucket_exists(bucket_name=bucket):
                return "was there"
            try:
                self._client.make_bucket(bucket_name=bucket, object_lock=object_lock)
            except S3Error as error:
                if error.code != "BucketAlreadyOwnedByYou":
                    raise
                return "was there"
            return "made"

    def _is_empty(self, bucket: str) -> bool:
        """Whether there is nothing but what probes left."""
        with _answering():
            return all(entry.object_name == _PROBES for entry in self._client.list_objects(bucket_name=bucket))

    def _keep_versions(self, bucket: str, honours_conditions: Callable[[], bool]) -> str:
        self._client.set_bucket_versioning(bucket_name=bucket, config=VersioningConfig(ENABLED))
        if honours_conditions():
            return "on"
        self._client.set_bucket_versioning(bucket_name=bucket, config=VersioningConfig(SUSPENDED))
        if honours_conditions():
            return "off, because this server ignores conditional PUT in a bucket that keeps them"
        self._client.set_bucket_versioning(bucket_name=bucket, config=VersioningConfig(ENABLED))
        return "on"

    def _expire_leftovers(self, bucket: str) -> str:
        if not self._rule_ids(bucket) <= {_LEFTOVERS, _OLD_PROBES}:
            return "left as it was, since the bucket has rules that are not Lethe's"
        everything = Rule(
            status=ENABLED,
            rule_id=_LEFTOVERS,
            rule_filter=Filter(prefix=""),
            abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(days_after_initiation=LEFTOVERS_DAYS),
            expiration=Expiration(expired_object_delete_marker=True),
            noncurrent_version_expiration=NoncurrentVersionExpiration(noncurrent_days=OLD_VERSIONS_DAYS),
        )
        probes = Rule(status=ENABLED, rule_id=_OLD_PROBES, rule_filter=Filter(prefix=_PROBES), expiration=Expiration(days=LEFTOVERS_DAYS))
        self._client.set_bucket_lifecycle(bucket_name=bucket, config=LifecycleConfig([everything, probes]))
        return "on"

    def _rule_ids(self, bucket: str) -> set[str | None]:
        """The names of the bucket's rules of expiry; None for those that the SDK cannot read."""
        try:
            found = self._client.get_bucket_lifecycle(bucket_name=bucket)
        except ValueError:
            return {None}
        return set() if found is None else {rule.rule_id for rule in found.rules}

    def _try(self, step: Callable[[], str]) -> str:
        """Take a step that Lethe can do without."""
        with _answering():
            try:
                return step()
            except S3Error as error:
                if error.code not in _UNSUPPORTED:
                    raise
                return f"not supported by this server ({error.code})"
            except InvalidResponseError as error:
                # Some servers send their error documents under a media type that the SDK does not read.
                return f"not supported by this server ({error_code(str(error)) or 'unreadable answer'})"


def open_buckets(settings: Settings) -> Buckets:
    """The buckets of the settings' S3 server; nothing is sent before the first step."""
    pool = open_pool(ssl.create_default_context())
    client = Minio(
        endpoint=given_setting(settings.s3_endpoint, "LETHE_S3_ENDPOINT"),
        access_key=given_setting(settings.s3_access_key, "LETHE_S3_ACCESS_KEY").get_secret_value(),
        secret_key=given_setting(settings.s3_secret_key, "LETHE_S3_SECRET_KEY").get_secret_value(),
        region=settings.s3_region,
        secure=settings.s3_secure,
        http_client=pool,
    )
    return Buckets(client, pool)


def bucket_policy(folder: Path, principals: Mapping[str, str], *, bucket: str, is_audit: bool = False) -> dict[str, Any]:
    """The bucket's policy that gives each service's principal what `folder`/{service}.json, or audit.json, allows it."""
    statements = [
        statement | {"Sid": f"{service}{number}", "Principal": {"AWS": [principal]}}
        for service, principal in sorted(principals.items())
        for number, statement in enumerate(allowed(folder, service, bucket=bucket, is_audit=is_audit))
    ]
    return {"Version": "2012-10-17", "Statement": statements}


def allowed(folder: Path, service: str, *, bucket: str, is_audit: bool = False) -> list[dict[str, Any]]:
    """What `folder`/{service}.json lets a service do in the bucket; in that of the audit log, audit.json for all who write there."""
    if service not in PRINCIPALS:
        raise InvalidRequestError(f"There is no service {service!r}; they are {', '.join(PRINCIPALS)}.", field="principal")
    path = folder / ("audit.json" if is_audit and service != "backup" else f"{service}.json")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequestError(f"The policy {path} cannot be read ({error.strerror}).", field="policies") from error
    statements: list[dict[str, Any]] = json.loads(text.replace(POLICY_BUCKET, f"arn:aws:s3:::{bucket}"))["Statement"]
    return statements


@contextmanager
def _answering() -> Iterator[None]:
    """Name what the server does not do; its messages may hold what was signed, its codes do not."""
    try:
        yield
    except S3Error as error:
        raise UnavailableError(f"The object store refused the request ({error.code or 'unknown'}).") from error
    except InvalidResponseError as error:
        raise UnavailableError(f"The object store refused the request ({error_code(str(error)) or 'unreadable'}).") from error
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        raise UnavailableError(f"The object store does not answer ({type(error).__name__}); try again later.") from error
