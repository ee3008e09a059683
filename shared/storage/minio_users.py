"""Users of MinIO and its forks, whose bucket policies know none: for services, operator and backups, each with a policy."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import urllib3
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException

from shared.errors import InvalidRequestError, UnavailableError
from shared.settings import Settings
from shared.storage.buckets import PRINCIPALS, allowed
from shared.storage.connections import open_pool
from shared.storage.opening import given_setting
from shared.storage.s3 import error_code

# What a server answers that has no such administration, Ceph's gateway and AWS among them.
_UNKNOWN_ROUTE: Final = {"404", "405", "501"}


@dataclass(frozen=True, slots=True)
class MinioUser:
    """Somebody to the store: what they sign requests with, and what they are allowed."""

    name: str
    access_key: str
    secret_key: str = field(repr=False)
    statements: Sequence[Mapping[str, Any]] = field(repr=False)


class MinioUsers:
    """The users of one server, made with an operator's credentials; everything may be repeated."""

    def __init__(self, admin: MinioAdmin, pool: urllib3.PoolManager) -> None:
        self._admin = admin
        self._pool = pool

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """The users of the settings' server; nothing is sent before the first step."""
        pool = open_pool(ssl.create_default_context())
        admin = MinioAdmin(
            endpoint=given_setting(settings.s3_endpoint, "LETHE_S3_ENDPOINT"),
            credentials=StaticProvider(
                given_setting(settings.s3_access_key, "LETHE_S3_ACCESS_KEY").get_secret_value(),
                given_setting(settings.s3_secret_key, "LETHE_S3_SECRET_KEY").get_secret_value(),
            ),
            region=settings.s3_region,
            secure=settings.s3_secure,
            http_client=pool,
        )
        return cls(admin, pool)

    def close(self) -> None:
        """Close all idle connections."""
        self._pool.clear()

    def keep(self, user: MinioUser) -> None:
        """Make the user, or give it its secret key anew, and its policy in place of all that it was allowed."""
        policy = f"lethe-{user.name}"
        try:
            self._admin.user_add(access_key=user.access_key, secret_key=user.secret_key)
            self._admin.policy_add(policy_name=policy, policy={"Version": "2012-10-17", "Statement": list(user.statements)})
            self._admin.policy_set(policy_name=policy, user=user.access_key)
        except MinioAdminException as error:
            raise _named(error) from error
        except urllib3.exceptions.HTTPError as error:
            raise UnavailableError(f"The object store does not answer ({type(error).__name__}); try again later.") from error


def read_users(folder: Path, policies: Path, settings: Settings) -> list[MinioUser]:
    """A user for each service, operator and backups, from the files {name}_s3_access_key and {name}_s3_secret_key of a folder."""
    if settings.store != "s3":
        raise InvalidRequestError("A folder has no users; they need LETHE_STORE=s3.", field="minio-users")
    users = [_read_user(folder, name, _statements(policies, name, settings)) for name in PRINCIPALS]
    administrator = given_setting(settings.s3_access_key, "LETHE_S3_ACCESS_KEY").get_secret_value()
    if len({administrator, *(user.access_key for user in users)}) <= len(users):
        raise InvalidRequestError(
            f"Two users in {folder} have one access key, or one has the administrator's; each needs its own.", field="minio-users"
        )
    return users


def _read_user(folder: Path, name: str, statements: Sequence[Mapping[str, Any]]) -> MinioUser:
    """One of them."""
    return MinioUser(name, _read(folder / f"{name}_s3_access_key"), _read(folder / f"{name}_s3_secret_key"), statements)


def _statements(policies: Path, name: str, settings: Settings) -> list[dict[str, Any]]:
    """What one user may do in both buckets, or in the one for everything."""
    anchors = allowed(policies, name, bucket=settings.audit_bucket, is_audit=True) if settings.audit_bucket else []
    return allowed(policies, name, bucket=settings.s3_bucket) + anchors


def _read(path: Path) -> str:
    """A key in a file, without the line break that it may end in."""
    try:
        key = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InvalidRequestError(f"The key {path} cannot be read ({error.strerror}).", field="minio-users") from error
    if not key:
        raise InvalidRequestError(f"The key {path} is empty.", field="minio-users")
    return key


def _named(error: MinioAdminException) -> InvalidRequestError | UnavailableError:
    """What the server's answer means; its messages may hold what was sent, its codes do not."""
    status, code = str(error._code), _code(str(error._body))  # noqa: SLF001 - the SDK shows them in no other way
    if status in _UNKNOWN_ROUTE and not code.startswith("XMinio"):
        return InvalidRequestError(
            "The object store has no administration of users as MinIO has; name its users in LETHE_S3_PRINCIPALS instead.",
            field="minio-users",
        )
    return UnavailableError(f"The object store refused to make a user ({code or status}).")


def _code(body: str) -> str:
    """The code inside an error document, as JSON or XML; empty without one."""
    try:
        told = json.loads(body)
    except ValueError:
        return error_code(body) or ""
    code = told.get("Code") if isinstance(told, dict) else None
    return code if isinstance(code, str) and code.isalnum() else ""
