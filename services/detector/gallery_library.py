"""The galleries that a detector holds in memory."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Final

from shared.catalog import Catalog
from shared.errors import ConflictError
from shared.memorization.galleries import Gallery, gallery_of, load_gallery

CAPACITY: Final = 2  # galleries held in memory: pictures of 64 pixels and codes take 5 KiB a film


class GalleryLibrary:
    """The galleries held in memory, by data set; safe to share between threads."""

    def __init__(self, catalog: Catalog, capacity: int = CAPACITY) -> None:
        self._catalog = catalog
        self._capacity = capacity
        self._lock = Lock()
        self._held: OrderedDict[str, Gallery] = OrderedDict()

    def get(self, dataset_id: str) -> Gallery:
        """The newest gallery of a data set; NotFoundError without the data set, ConflictError without a gallery."""
        manifest = gallery_of(self._catalog, dataset_id)
        if manifest is None:
            self._catalog.get("dataset", dataset_id)
            raise ConflictError(
                f"The data set {dataset_id} has no gallery yet; POST /v1/galleries builds it, and so does the first calibration on it."
            )
        with self._lock:
            gallery = self._held.get(manifest.id) or load_gallery(manifest, self._catalog)
            self._held[manifest.id] = gallery
            self._held.move_to_end(manifest.id)
            while len(self._held) > self._capacity:
                self._held.popitem(last=False)
            return gallery
