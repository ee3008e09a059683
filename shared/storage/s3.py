"""Objects in a bucket of an S3 server, spoken to by the minio SDK: the store of deployments.

The SDK has no public conditional PUT, so that one request is a presigned PUT sent with httpx.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from io import BytesIO
from itertools import groupby, islice
from pathlib import Path

import httpx
import urllib3
from minio import Minio
from minio.error import InvalidResponseError, MinioException, S3Error
from pydantic import SecretStr

from shared.errors import AlreadyExistsError, LetheError, NotFoundError, UnavailableError
from shared.storage.connections import CONNECT_SECONDS, READ_SECONDS, open_pool
from shared.storage.durable import CHUNK_BYTES, write_durable
from shared.storage.keys import validate_key, validate_prefix
from shared.storage.metrics import measured, record_capabilities
from shared.storage.object_store import Listing, Names, ObjectInfo
from shared.storage.silence import SilentWrites
from shared.storage.verification import verify_digest
from shared.telemetry import get_logger

DIGEST_HEADER = "x-amz-meta-sha256"
PART_BYTES = 16 * 1024 * 1024
# The URL is used at once; the time allows for clocks that disagree a little.
PRESIGNED_FOR = timedelta(minutes=10)

_WRITES = {"put", "put_file", "delete"}

_log = get_logger(__name__)


class _NotImplementedByServerError(UnavailableError):
    """The server does not know what it was asked for."""


class S3Store:
    """An ObjectStore in one bucket, which must exist; every object carries its SHA-256 as metadata."""

    def __init__(
        self,
        *,
        endpoint: str,
        bucket: str,
        access_key: SecretStr,
        secret_key: SecretStr,
        region: str,
        secure: bool = True,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._bucket = bucket
        trust = ssl.create_default_context()
        self._pool = open_pool(trust, read_seconds=read_seconds)
        self._client = Minio(
            endpoint=endpoint,
            access_key=access_key.get_secret_value(),
            secret_key=secret_key.get_secret_value(),
            region=region,
            secure=secure,
            http_client=self._pool,
        )
        self._http = httpx.Client(timeout=httpx.Timeout(read_seconds, connect=CONNECT_SECONDS), verify=trust, trust_env=False)
        self._conditional_put: bool | None = None
        self._told: dict[str, bool] = {}
        self._writes = SilentWrites()

    def put(self, *, key: str, data: bytes, if_absent: bool = False) -> ObjectInfo:
        """Write an object whole or not at all; where the server ignores the condition, `if_absent` looks first and then writes."""
        validate_key(key)
        conditional = if_absent and self._has_conditional_put()
        with self._operation("put", key):
            if conditional:
                return self._put_conditionally(key, data)
            if if_absent and self._taken(key):
                raise AlreadyExistsError(f"The object {key!r} exists already; committed objects never change.")
            self._put_plainly(key, data)
        return ObjectInfo(key=key, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    def put_file(self, *, key: str, path: Path) -> ObjectInfo:
        """Write a local file's content, read twice: once for the digest, once in parts of at most 16 MiB."""
        validate_key(key)
        if self._writes.silent:
            self._try_to_write()
        with self._operation("put_file", key), path.open("rb") as source:
            sha256 = hashlib.file_digest(source, "sha256").hexdigest()
            size_bytes = source.tell()
            source.seek(0)
            self._client.put_object(
                bucket_name=self._bucket,
                object_name=key,
                data=source,
                length=size_bytes,
                part_size=PART_BYTES,
                metadata={"sha256": sha256},
            )
        return ObjectInfo(key=key, size_bytes=size_bytes, sha256=sha256)

    def get(self, *, key: str) -> bytes:
        """Read an object and verify it against the digest in its metadata."""
        validate_key(key)
        with self._operation("get", key), self._opened(key) as response:
            data = response.read()
            expected = response.headers.get(DIGEST_HEADER)
            if expected is not None:
                verify_digest(what=f"The object {key!r}", kind="object", expected=expected, actual=hashlib.sha256(data).hexdigest())
            return data

    def get_file(self, *, key: str, path: Path) -> ObjectInfo:
        """Stream an object into a local file, which appears only if the digest is right."""
        validate_key(key)
        with self._operation("get_file", key), self._opened(key) as response:
            chunks = response.stream(CHUNK_BYTES)
            size_bytes, sha256 = write_durable(chunks, target=path, expected=response.headers.get(DIGEST_HEADER))
        return ObjectInfo(key=key, size_bytes=size_bytes, sha256=sha256)

    def stat(self, *, key: str) -> ObjectInfo:
        """Look an object up; the digest is the one in its metadata."""
        validate_key(key)
        with self._operation("stat", key):
            return self._stat(key)

    def exists(self, *, key: str) -> bool:
        """Whether the key is taken."""
        validate_key(key)
        with self._operation("stat", key):
            return self._taken(key)

    def list(self, *, prefix: str, start_after: str = "", limit: int = 1000) -> Listing:
        """List objects by key."""
        validate_prefix(prefix)
        with self._operation("list", prefix):
            found = self._client.list_objects(bucket_name=self._bucket, prefix=prefix, recursive=True, start_after=start_after or None)
            return [ObjectInfo(key=entry.object_name, size_bytes=entry.size, sha256=None) for entry in islice(found, limit)]

    def list_kept(self, *, prefix: str, start_after: str = "", limit: int = 1000) -> Names:
        """List keys with all versions, which a delete marker hides from `list`; a server that knows no versions keeps none."""
        validate_prefix(prefix)
        try:
            return self._list_versions(prefix, start_after, limit)
        except _NotImplementedByServerError:
            return [info.key for info in self.list(prefix=prefix, start_after=start_after, limit=limit)]

    def _list_versions(self, prefix: str, start_after: str, limit: int) -> Names:
        """One page of keys; what a server that ignores the marker repeats is passed over."""
        with self._operation("list", prefix):
            found = self._client.list_objects(
                bucket_name=self._bucket, prefix=prefix, recursive=True, start_after=start_after or None, include_version=True
            )
            keys = (entry.object_name for entry in found if not entry.is_delete_marker and entry.object_name > start_after)
            return list(islice((key for key, _ in groupby(keys)), limit))

    def list_folders(self, *, prefix: str) -> Names:
        """List the names of the folders directly below `prefix`, a thousand a request."""
        validate_prefix(prefix)
        with self._operation("list", prefix):
            found = self._client.list_objects(bucket_name=self._bucket, prefix=prefix, recursive=False)
            return sorted(entry.object_name.removeprefix(prefix).rstrip("/") for entry in found if entry.is_dir)

    def delete(self, *, key: str) -> None:
        """Remove an object."""
        validate_key(key)
        with self._operation("delete", key):
            self._client.remove_object(bucket_name=self._bucket, object_name=key)

    def probe(self) -> dict[str, bool]:
        """Try what the server can do: read back, keep the digest, refuse a conditional PUT on a taken key, keep versions."""
        key = f"probe/{secrets.token_hex(8)}"
        data = key.encode()
        with self._operation("put", key):
            version = self._put_plainly(key, data)
        try:
            capabilities = {
                "read_back": self.get(key=key) == data,
                "digest": self.stat(key=key).sha256 == hashlib.sha256(data).hexdigest(),
                "conditional_put": self._has_conditional_put(),
                "versioning": version is not None,
            }
        finally:
            self._forget(key, version)
        self._tell(capabilities)
        return capabilities

    def close(self) -> None:
        """Close all idle connections."""
        self._http.close()
        self._pool.clear()

    def _forget(self, key: str, version: str | None) -> None:
        """Remove an object together with its version, which a mere delete would keep."""
        with self._operation("delete", key):
            self._client.remove_object(bucket_name=self._bucket, object_name=key, version_id=version)

    def _tell(self, capabilities: dict[str, bool]) -> None:
        """Publish a probe's findings, and log what is missing where that is news."""
        record_capabilities("s3", capabilities)
        for capability, present in capabilities.items():
            if not present and self._told.get(capability) is not False:
                _log.warning("storage_capability_missing", capability=capability)
        self._told = capabilities

    def _has_conditional_put(self) -> bool:
        """Whether the server honours the condition, found out before it is first relied on, by all who come meanwhile: none may wait."""
        if self._conditional_put is None:
            self._conditional_put = self._try_conditional_put()
        return self._conditional_put

    def _try_conditional_put(self) -> bool:
        """Write one key twice under the condition; only a server that keeps the first object and its digest has it."""
        key = f"probe/{secrets.token_hex(8)}"
        with self._operation("put", key):
            first = self._put_conditionally(key, b"first")
        try:
            with self._operation("put", key):
                self._put_conditionally(key, b"second")
        except AlreadyExistsError:
            return self.stat(key=key).sha256 == first.sha256
        finally:
            self.delete(key=key)
        _log.warning("storage_conditional_put_ignored", consequence="if_absent looks, then writes; two writers at once may both succeed")
        return False

    def _try_to_write(self) -> None:
        """End the server's silence, or be told of it, by a small object: a long upload that did so would keep all others out meanwhile."""
        key = f"probe/{secrets.token_hex(8)}"
        with self._operation("put", key):
            version = self._put_plainly(key, b"")
        self._forget(key, version)

    def _put_plainly(self, key: str, data: bytes) -> str | None:
        """One PUT; answers the version that a server which keeps versions gave the object."""
        written = self._client.put_object(
            bucket_name=self._bucket,
            object_name=key,
            data=BytesIO(data),
            length=len(data),
            part_size=PART_BYTES,
            metadata={"sha256": hashlib.sha256(data).hexdigest()},
        )
        return None if written.version_id == "null" else written.version_id

    def _put_conditionally(self, key: str, data: bytes) -> ObjectInfo:
        """One PUT that fails where the key is taken; not retried, because a lost answer would turn success into a refusal."""
        sha256 = hashlib.sha256(data).hexdigest()
        # Metadata travels in the query: only what is signed may set it, and a presigned URL signs no headers but the host.
        url = self._client.get_presigned_url(
            method="PUT",
            bucket_name=self._bucket,
            object_name=key,
            expires=PRESIGNED_FOR,
            extra_query_params={DIGEST_HEADER: sha256},
        )
        md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        headers = {"If-None-Match": "*", "Content-MD5": md5, "Content-Type": "application/octet-stream"}
        response = self._http.put(url, content=data, headers=headers)
        if not response.is_success:
            raise self._refusal(error_code(response.text) or f"HTTP {response.status_code}", key)
        return ObjectInfo(key=key, size_bytes=len(data), sha256=sha256)

    def _stat(self, key: str) -> ObjectInfo:
        found = self._client.stat_object(bucket_name=self._bucket, object_name=key)
        return ObjectInfo(key=key, size_bytes=found.size or 0, sha256=(found.metadata or {}).get(DIGEST_HEADER))

    def _taken(self, key: str) -> bool:
        try:
            self._stat(key)
        except S3Error as error:
            if error.code == "NoSuchKey":
                return False
            raise
        return True

    @contextmanager
    def _opened(self, key: str) -> Iterator[urllib3.BaseHTTPResponse]:
        """An object's open response; closed and its connection released, or the pool would drain."""
        response = self._client.get_object(bucket_name=self._bucket, object_name=key)
        try:
            yield response
        finally:
            response.close()
            response.release_conn()

    @contextmanager
    def _operation(self, op: str, key: str) -> Iterator[None]:
        """Time an operation and name its errors; a server that is full may answer what reads, and nothing that writes."""
        with measured(op):
            try:
                with self._writes.attempt() if op in _WRITES else nullcontext():
                    yield
            except S3Error as error:
                raise self._refusal(error.code or "unknown", key) from error
            except InvalidResponseError as error:
                # Some servers send their error documents under a media type that the SDK does not read.
                raise self._refusal(error_code(str(error)) or "unreadable", key) from error
            except (MinioException, urllib3.exceptions.HTTPError, httpx.TransportError) as error:
                raise UnavailableError(f"The object store does not answer ({type(error).__name__}); try again later.") from error

    def _refusal(self, code: str, key: str) -> LetheError:
        """The error that an S3 error code stands for."""
        if code == "NoSuchKey":
            return NotFoundError(f"There is no object {key!r} in the store.")
        if code == "PreconditionFailed":
            return AlreadyExistsError(f"The object {key!r} exists already; committed objects never change.")
        if code == "NoSuchBucket":
            return UnavailableError(f"The object store has no bucket {self._bucket!r}; make it first.")
        if code == "NotImplemented":
            return _NotImplementedByServerError("The object store refused the request (NotImplemented).")
        return UnavailableError(f"The object store refused the request ({code}).")


def error_code(document: str) -> str | None:
    """The code inside an S3 error document."""
    found = re.search(r"<Code>(\w+)</Code>", document)
    return found.group(1) if found else None
