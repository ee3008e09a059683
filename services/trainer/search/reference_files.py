"""What all trials of a search are measured against: made once by the search, and read by every trial.

searches/{search}/reference/…, gallery.json beside them, which is written last, and baselines.json once the base was measured
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from services.trainer.search.search_files import FOLDER
from shared.catalog import Catalog, DatasetManifest
from shared.errors import NotFoundError
from shared.http.bodies import StrictSpec
from shared.imaging.films import FilmTable
from shared.memorization.galleries import build_gallery, gallery_of, load_gallery, read_films
from shared.memorization.rewards.effort import Effort
from shared.memorization.rewards.reference import Reference
from shared.memorization.statistics import Estimate
from shared.settings import Settings
from shared.storage import ObjectStore

_GALLERY: Final = "gallery.json"
_BASELINES: Final = "baselines.json"


class Baselines(StrictSpec):
    """What trials are compared with: the untuned base's figures, and what real films score for images."""

    base: dict[str, Estimate]
    floors: dict[str, float]


class ReferenceFiles:
    """The reference of one search."""

    def __init__(self, store: ObjectStore, search: str, scratch: Path) -> None:
        self._store = store
        self._prefix = f"{FOLDER}/{search}/reference/"
        self._search = search
        self._scratch = scratch

    def make(
        self, dataset: DatasetManifest, effort: Effort, *, catalog: Catalog, settings: Settings, report: Callable[[int, int, str], None]
    ) -> None:
        """Make it unless that has happened, with the data set's newest gallery; where there is none it is built, for all to use."""
        if self._store.exists(key=self._prefix + _GALLERY):
            return
        manifest = gallery_of(catalog, dataset.id)
        if manifest is None:
            gallery_id = f"gal_{self._search.partition('_')[2]}"
            manifest = build_gallery(dataset, gallery_id, effort.seed, catalog=catalog, settings=settings, report=report)
        table = FilmTable(catalog.fetch(dataset))
        read = partial(read_films, table)
        reference = Reference.of(
            load_gallery(manifest, catalog),
            canaries=read(table.select("canary")),
            controls=read(table.select("control", fold="calibration")),
            others=read(table.select("control", fold="evaluation")),
            training=read(table.select("train", "canary")),
            effort=effort,
        )
        self._keep(reference, manifest.id)

    def read(self, dataset: DatasetManifest, *, catalog: Catalog) -> Reference:
        """What was made."""
        kept: dict[str, Any] = json.loads(self._store.get(key=self._prefix + _GALLERY))
        gallery = load_gallery(catalog.get("gallery", kept["gallery"]), catalog)
        with self._folder() as folder:
            for name in kept["files"]:
                self._store.get_file(key=self._prefix + name, path=Path(folder) / name)
            return Reference.read(Path(folder), gallery, partial(read_films, FilmTable(catalog.fetch(dataset))))

    def baselines(self) -> Baselines | None:
        """What was measured; None before that."""
        try:
            return Baselines.model_validate_json(self._store.get(key=self._prefix + _BASELINES))
        except NotFoundError:
            return None

    def keep_baselines(self, baselines: Baselines) -> None:
        """Note what was measured, for all attempts."""
        self._store.put(key=self._prefix + _BASELINES, data=baselines.model_dump_json().encode())

    def _keep(self, reference: Reference, gallery_id: str) -> None:
        with self._folder() as folder:
            reference.save(Path(folder))
            names = sorted(path.name for path in Path(folder).iterdir())
            for name in names:
                self._store.put_file(key=self._prefix + name, path=Path(folder) / name)
        self._store.put(key=self._prefix + _GALLERY, data=json.dumps({"gallery": gallery_id, "files": names}).encode())

    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        self._scratch.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=self._scratch, prefix="reference-")
