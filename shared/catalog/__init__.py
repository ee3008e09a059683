"""What Lethe knows of: data sets, models, galleries, calibrations and generations as typed, immutable manifests."""

from shared.catalog.catalog import Catalog
from shared.catalog.ids import Kind, new_id
from shared.catalog.manifests import (
    CalibrationManifest,
    DatasetManifest,
    DatasetPart,
    FileEntry,
    GalleryManifest,
    GenerationManifest,
    Manifest,
    ModelManifest,
)
from shared.catalog.opening import open_catalog

__all__ = [
    "CalibrationManifest",
    "Catalog",
    "DatasetManifest",
    "DatasetPart",
    "FileEntry",
    "GalleryManifest",
    "GenerationManifest",
    "Kind",
    "Manifest",
    "ModelManifest",
    "new_id",
    "open_catalog",
]
