"""The settings choose the store."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.settings import Settings
from shared.storage import DirectoryStore, S3Store, open_store


def test_embedded_store_lies_below_home(tmp_path: Path) -> None:
    store = open_store(Settings(home=tmp_path / "home"))
    assert isinstance(store, DirectoryStore)
    store.put(key="a", data=b"data")
    assert (tmp_path / "home" / "store" / "a").read_bytes() == b"data"


def test_s3_store_opens_without_a_request(tmp_path: Path) -> None:
    keys = {"s3_access_key": SecretStr("access"), "s3_secret_key": SecretStr("secret")}
    store = open_store(Settings(home=tmp_path, store="s3", s3_endpoint="127.0.0.1:1", **keys))
    assert isinstance(store, S3Store)
    store.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["s3_endpoint", "s3_access_key", "s3_secret_key"])
def test_s3_store_without_a_needed_setting_names_it(missing: str) -> None:
    given = {"s3_endpoint": "127.0.0.1:1", "s3_access_key": "access", "s3_secret_key": "secret"}
    del given[missing]
    with pytest.raises(ValueError, match=f"LETHE_STORE=s3 needs LETHE_{missing.upper()}"):
        open_store(Settings.model_validate({"store": "s3", **given}))
