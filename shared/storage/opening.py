"""Choosing the store that the settings name."""

from __future__ import annotations

from typing import TypeVar

from pydantic import SecretStr

from shared.errors import SettingsError
from shared.settings import Settings
from shared.storage.directory import DirectoryStore
from shared.storage.object_store import ObjectStore
from shared.storage.s3 import S3Store

_Given = TypeVar("_Given", str, SecretStr)


def open_store(settings: Settings) -> ObjectStore:
    """Open the folder LETHE_HOME/store, or the S3 server; nothing is sent before the first operation."""
    if settings.store == "directory":
        return DirectoryStore(settings.home / "store")
    return S3Store(
        endpoint=given_setting(settings.s3_endpoint, "LETHE_S3_ENDPOINT"),
        bucket=settings.s3_bucket,
        access_key=given_setting(settings.s3_access_key, "LETHE_S3_ACCESS_KEY"),
        secret_key=given_setting(settings.s3_secret_key, "LETHE_S3_SECRET_KEY"),
        region=settings.s3_region,
        secure=settings.s3_secure,
    )


def given_setting(value: _Given | None, variable: str) -> _Given:
    """A setting that the S3 store cannot do without."""
    if not value:
        raise SettingsError(f"LETHE_STORE=s3 needs {variable}.")
    return value
