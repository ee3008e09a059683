"""Opening the catalog that the settings name, for as long as a process needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shared.catalog.catalog import Catalog
from shared.settings import Settings
from shared.storage import open_store


@contextmanager
def open_catalog(settings: Settings) -> Iterator[Catalog]:
    """The catalog on the store of the settings, with local copies under LETHE_HOME; lets go of connections at the end."""
    store = open_store(settings)
    try:
        yield Catalog(store, settings.home.resolve() / "cache")
    finally:
        store.close()
