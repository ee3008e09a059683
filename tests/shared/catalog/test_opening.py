"""Opening the catalog of the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.catalog import open_catalog
from shared.errors import UnavailableError
from shared.settings import Settings
from shared.storage import DirectoryStore

if TYPE_CHECKING:
    from pathlib import Path


def test_opened_catalog_answers_from_the_store_under_home(tmp_path: Path) -> None:
    with open_catalog(Settings(home=tmp_path)) as catalog:
        catalog.ping()
        catalog.check(writes=True)
        assert catalog.list("model", 10) == ([], None)


def test_catalog_whose_store_is_away_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_store: DirectoryStore, *, key: str) -> bool:
        raise UnavailableError(f"no answer about {key}")

    monkeypatch.setattr(DirectoryStore, "exists", refuse)
    with open_catalog(Settings(home=tmp_path)) as catalog, pytest.raises(UnavailableError):
        catalog.ping()
