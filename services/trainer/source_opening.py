"""Opens the source that a spec names: the folder is judged first, and a phantom is written before it is read like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from services.trainer.dataset_spec import CheXpertSource, DatasetSpec, DicomSource, ImageFolderSource, MimicSource, PhantomSource
from shared.errors import ForbiddenError, InvalidRequestError
from shared.imaging.chexpert import CheXpertFolder
from shared.imaging.imagefolder import ImageFolder
from shared.imaging.mimic import MimicFolder
from shared.imaging.phantom_dataset import LABELS_CSV, REPORTS_CSV, write_phantom_chexpert
from shared.imaging.sources import Source
from shared.kept_keys import kept_key
from shared.settings import Settings

PHANTOM_OVERSIZE: Final = 2  # phantom films are written larger than they are read, as real ones are

PSEUDONYM_KEY: Final = "pseudonyms.key"  # beside the other keys: makes patients' names of their DICOM identifiers, which are kept nowhere

Report = Callable[[int, int, str], None]
"""Told how far the job is: step, of how many, doing what. May raise to stop."""


def open_source(spec: DatasetSpec, settings: Settings, report: Report) -> Source:
    """The reader of a spec's source."""
    source, roots = spec.source, settings.import_folders
    folder = source_folder(spec, settings)
    match source:
        case PhantomSource():
            return _phantom(spec, source, folder, report)
        case CheXpertSource():
            return CheXpertFolder(folder, source.csv, views=spec.views, reports_csv=source.reports_csv, roots=roots)
        case MimicSource():
            reports = _reports_folder(source, settings) or folder
            wanted = spec.prompt.template in {"impression", "report"}
            return MimicFolder(
                folder, views=spec.views, labeller=source.labels, splits=source.splits, reports=reports if wanted else None, roots=roots
            )
        case ImageFolderSource():
            return ImageFolder(folder, source.metadata, views=spec.views, roots=roots)
        case DicomSource():
            from shared.imaging.dicom import DicomFolder

            key = kept_key(settings.keys_folder / PSEUDONYM_KEY)
            return DicomFolder(folder, views=spec.views, key=key, allow_burned_in=source.allow_burned_in, roots=roots)


def source_folder(spec: DatasetSpec, settings: Settings) -> Path:
    """The folder that a spec names, symlinks followed; ForbiddenError when it, or that of its reports, lies outside the import roots."""
    if spec.source.uri is None:
        size = PHANTOM_OVERSIZE * spec.image_size
        return settings.home.resolve() / "phantom" / f"{spec.source.patients}-patients-{size}-pixels-seed-{spec.seed}"
    if isinstance(spec.source, MimicSource):
        _reports_folder(spec.source, settings)
    return folder_of(spec.source.uri, "source.uri", settings)


def folder_of(uri: str, field: str, settings: Settings) -> Path:
    """The folder of a file:// URI, symlinks followed; ForbiddenError, which names `field`, when it lies outside the import roots."""
    refusal = InvalidRequestError(f"{field} must be file:// with an absolute path", field=field)
    try:
        parts = urlsplit(uri)
    except ValueError as error:  # brackets that hold no address
        raise refusal from error
    path = unquote(parts.path)
    if parts.scheme != "file" or parts.netloc not in {"", "localhost"} or not path.startswith("/") or "\0" in path:
        raise refusal
    folder = Path(path).resolve()
    if not any(folder.is_relative_to(root) for root in settings.import_folders):
        raise ForbiddenError(f"{field} lies outside the folders that data may be imported from (LETHE_IMPORT_ROOTS)")
    return folder


def _reports_folder(source: MimicSource, settings: Settings) -> Path | None:
    return folder_of(source.reports_uri, "source.reports_uri", settings) if source.reports_uri else None


def _phantom(spec: DatasetSpec, source: PhantomSource, folder: Path, report: Report) -> CheXpertFolder:
    written = write_phantom_chexpert(
        folder,
        patients=source.patients,
        seed=spec.seed,
        size=PHANTOM_OVERSIZE * spec.image_size,
        on_progress=lambda step, total: report(step, total, "drawing films"),
    )
    return CheXpertFolder(written, LABELS_CSV, views=spec.views, reports_csv=REPORTS_CSV, roots=[folder])
