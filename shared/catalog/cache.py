"""Local copies of committed folders: verified file by file when fetched, and once more on first use in a process."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.catalog.folders import file_matches, folder_matches
from shared.catalog.manifests import FileEntry, Manifest
from shared.errors import IntegrityError, NotFoundError
from shared.storage import ObjectStore, count_failure, integrity_failure, verify_digest
from shared.storage.durable import named_full_disk
from shared.telemetry import get_logger

_log = get_logger(__name__)


class Cache:
    """One folder per id, shared by the processes of a machine; nothing is ever removed but what is damaged."""

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._verified: dict[str, str] = {}
        self._verified_files: set[Path] = set()

    def fetch(self, manifest: Manifest, *, prefix: str) -> Path:
        """The local folder of a manifest whose files lie under `prefix`; a damaged copy is fetched again."""
        target = self._folder / manifest.id
        if self._is_verified(manifest, target):
            return target
        with self._locked(manifest.id):
            if not (self._is_verified(manifest, target) or self._is_intact(manifest, target)):
                self._download(manifest, prefix, target)
            self._verified[manifest.id] = manifest.digest
        return target

    def fetch_file(self, manifest: Manifest, entry: FileEntry, *, prefix: str) -> Path:
        """The local copy of one file: from the whole folder where that is here, else on its own; a damaged copy is fetched again."""
        alone = self._folder / ".files" / manifest.id / entry.path
        copies = (self._folder / manifest.id / entry.path, alone)
        known = next((path for path in copies if path in self._verified_files and path.is_file()), None)
        if known is not None:
            return known
        with self._locked(manifest.id):
            found = next((path for path in copies if file_matches(path, entry)), None)
            if found is None:
                found = alone
                try:
                    self._download_file(manifest, entry, prefix, found)
                except IntegrityError:
                    found.unlink(missing_ok=True)
                    raise
            self._verified_files.add(found)
        return found

    def _is_verified(self, manifest: Manifest, target: Path) -> bool:
        return self._verified.get(manifest.id) == manifest.digest and target.is_dir()

    def _is_intact(self, manifest: Manifest, target: Path) -> bool:
        """Whether a copy made earlier, perhaps by another process, still is what was committed."""
        if not target.exists():
            return False
        if folder_matches(target, manifest.files):
            return True
        count_failure("cache")
        _log.warning("cached_copy_damaged", kind=manifest.kind, id=manifest.id, consequence="fetched again from the store")
        return False

    def _download(self, manifest: Manifest, prefix: str, target: Path) -> None:
        """Fetch into a hidden folder, then put it in place whole."""
        partial = self._folder / f".{manifest.id}.partial"
        damaged = self._folder / f".{manifest.id}.damaged"
        # Left behind by a process that was killed here; the lock says that it is not at work any more.
        _remove(partial, damaged)
        partial.mkdir()
        try:
            for entry in manifest.files:
                self._download_file(manifest, entry, prefix, partial / entry.path)
            if target.exists():
                target.rename(damaged)
            partial.rename(target)
        finally:
            _remove(partial, damaged)

    def _download_file(self, manifest: Manifest, entry: FileEntry, prefix: str, target: Path) -> None:
        """Fetch one file and compare its digest."""
        what = f"The file {entry.path!r} of {manifest.kind} {manifest.id}"
        try:
            received = self._store.get_file(key=prefix + entry.path, path=target)
        except NotFoundError as error:
            raise integrity_failure(what, kind="object") from error
        verify_digest(what=what, kind="object", expected=entry.sha256, actual=received.sha256 or "")

    @contextmanager
    def _locked(self, identifier: str) -> Iterator[None]:
        """Keep other threads and processes from making the same copy; the system lets go of it when a process dies."""
        locks = self._folder / ".locks"
        with named_full_disk():
            locks.mkdir(parents=True, exist_ok=True)
            with (locks / identifier).open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield


def _remove(*folders: Path) -> None:
    """Remove folders that may exist."""
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)
