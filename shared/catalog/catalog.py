"""The catalog: manifests in the store, written last and once, read with their digests verified.

    {datasets|models|galleries|calibrations|generations}/{id}/manifest.json and the files that it names
    aliases/{datasets|…}/{alias}.json, the only things that change

Without its manifest nothing exists: files of a commit that did not end are found by nobody and overwritten by the next attempt.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from pydantic import ValidationError

from shared.catalog.cache import Cache
from shared.catalog.digests import content_digest
from shared.catalog.folders import describe_folder
from shared.catalog.ids import Kind, is_id
from shared.catalog.manifests import (
    MANIFEST_TYPES,
    AnyManifest,
    CalibrationManifest,
    DatasetManifest,
    FileEntry,
    GalleryManifest,
    GenerationManifest,
    Manifest,
    ModelManifest,
)
from shared.errors import AlreadyExistsError, IntegrityError, InvalidRequestError, NotFoundError
from shared.storage import ObjectStore, StoreFitness, integrity_failure, verify_digest
from shared.storage.fitness import PING

FOLDERS: dict[Kind, str] = {
    "dataset": "datasets",
    "model": "models",
    "gallery": "galleries",
    "calibration": "calibrations",
    "generation": "generations",
}
MANIFEST_NAME = "manifest.json"
_ALIAS = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
# What a caller's text may add to an error message.
_ECHO_LENGTH_MAX = 64

AnyKindOfManifest = TypeVar("AnyKindOfManifest", bound=Manifest)


class Catalog:
    """Everything committed, in one store, with verified local copies in `cache_dir`."""

    def __init__(self, store: ObjectStore, cache_dir: Path) -> None:
        self._store = store
        self._cache = Cache(store, cache_dir)
        self._fitness = StoreFitness(store)

    def ping(self) -> None:
        """Ask the store something small; UnavailableError when it does not answer."""
        self._store.exists(key=PING)

    def check(self, *, writes: bool = False) -> None:
        """UnavailableError while the store is away, or unfit; with `writes`, also while it takes no more."""
        self._fitness.check(writes=writes)

    def commit(self, manifest: AnyKindOfManifest, folder: Path | None = None) -> AnyKindOfManifest:
        """Upload every file below `folder`, then the manifest; only that last write makes the thing exist.

        Repeating an interrupted or a finished commit with the same content is fine, other content under a committed id
        raises AlreadyExistsError. One id is committed by one process at a time.
        """
        files = describe_folder(folder) if folder is not None else []
        if any(entry.path == MANIFEST_NAME for entry in files):
            raise InvalidRequestError(f"A folder to commit holds no {MANIFEST_NAME}; the catalog writes it.")
        sealed = _seal(manifest, files)
        key = _prefix(sealed.kind, sealed.id) + MANIFEST_NAME
        if self._store.exists(key=key):
            return self._same_as_committed(sealed)
        if folder is not None:
            self._upload(sealed, folder)
        try:
            self._store.put(key=key, data=json.dumps(sealed.model_dump(mode="json"), indent=2).encode(), if_absent=True)
        except AlreadyExistsError:
            return self._same_as_committed(sealed)
        return sealed

    @overload
    def get(self, kind: Literal["dataset"], identifier: str) -> DatasetManifest: ...
    @overload
    def get(self, kind: Literal["model"], identifier: str) -> ModelManifest: ...
    @overload
    def get(self, kind: Literal["gallery"], identifier: str) -> GalleryManifest: ...
    @overload
    def get(self, kind: Literal["calibration"], identifier: str) -> CalibrationManifest: ...
    @overload
    def get(self, kind: Literal["generation"], identifier: str) -> GenerationManifest: ...
    @overload
    def get(self, kind: Kind, identifier: str) -> AnyManifest: ...
    def get(self, kind: Kind, identifier: str) -> AnyManifest:
        """The manifest of one thing; NotFoundError names kind and id, IntegrityError tells a manifest that is not what was committed."""
        unknown = f"There is no {kind} {identifier[:_ECHO_LENGTH_MAX]!r}."
        if not is_id(kind, identifier):
            raise NotFoundError(unknown)
        try:
            data = self._store.get(key=_prefix(kind, identifier) + MANIFEST_NAME)
        except NotFoundError as error:
            raise NotFoundError(unknown) from error
        return _open(kind, identifier, data)

    @overload
    def list(self, kind: Literal["dataset"], page_size: int, before: str | None = None) -> tuple[Sequence[DatasetManifest], str | None]: ...
    @overload
    def list(self, kind: Literal["model"], page_size: int, before: str | None = None) -> tuple[Sequence[ModelManifest], str | None]: ...
    @overload
    def list(self, kind: Literal["gallery"], page_size: int, before: str | None = None) -> tuple[Sequence[GalleryManifest], str | None]: ...
    @overload
    def list(
        self, kind: Literal["calibration"], page_size: int, before: str | None = None
    ) -> tuple[Sequence[CalibrationManifest], str | None]: ...
    @overload
    def list(
        self, kind: Literal["generation"], page_size: int, before: str | None = None
    ) -> tuple[Sequence[GenerationManifest], str | None]: ...
    @overload
    def list(self, kind: Kind, page_size: int, before: str | None = None) -> tuple[Sequence[AnyManifest], str | None]: ...
    def list(self, kind: Kind, page_size: int, before: str | None = None) -> tuple[Sequence[AnyManifest], str | None]:
        """Up to `page_size` manifests, newest first, older than the id `before`; and the `before` of the next page, None at the end."""
        names = self._store.list_folders(prefix=f"{FOLDERS[kind]}/")
        newest_first = sorted((name for name in names if is_id(kind, name) and (before is None or name < before)), reverse=True)
        found: list[AnyManifest] = []
        for identifier in newest_first:
            try:
                found.append(self.get(kind, identifier))
            except NotFoundError:
                # Files without a manifest: a commit under way, or one that never ended.
                continue
            if len(found) > page_size:
                return found[:page_size], found[page_size - 1].id
        return found, None

    def fetch(self, manifest: Manifest) -> Path:
        """A local folder with exactly the manifest's files, every byte verified; not to be written to."""
        return self._cache.fetch(manifest, prefix=_prefix(manifest.kind, manifest.id))

    def fetch_file(self, manifest: Manifest, path: str) -> Path:
        """A local copy of one file, verified; the others are not fetched. Not to be written to."""
        return self._cache.fetch_file(manifest, _entry(manifest, path), prefix=_prefix(manifest.kind, manifest.id))

    def read_file(self, manifest: Manifest, path: str) -> bytes:
        """One file's verified content."""
        entry = _entry(manifest, path)
        what = f"The file {entry.path!r} of {manifest.kind} {manifest.id}"
        try:
            data = self._store.get(key=_prefix(manifest.kind, manifest.id) + entry.path)
        except NotFoundError as error:
            raise integrity_failure(what, kind="object") from error
        verify_digest(what=what, kind="object", expected=entry.sha256, actual=hashlib.sha256(data).hexdigest())
        return data

    def set_alias(self, kind: Kind, alias: str, identifier: str) -> None:
        """Point an alias at something committed, wherever it pointed before."""
        if not _ALIAS.fullmatch(alias):
            raise InvalidRequestError("An alias is made of lower-case letters, digits and '-', at most 63.", field="alias")
        committed = self.get(kind, identifier)
        record = {"kind": kind, "alias": alias, "id": committed.id, "updated": datetime.now(UTC).isoformat()}
        data = json.dumps({**record, "digest": content_digest(record)}).encode()
        self._store.put(key=_alias_key(kind, alias), data=data)

    def get_alias(self, kind: Kind, alias: str) -> str:
        """The id that an alias points at."""
        unknown = f"There is no alias {alias[:_ECHO_LENGTH_MAX]!r} of a {kind}."
        if not _ALIAS.fullmatch(alias):
            raise NotFoundError(unknown)
        try:
            data = self._store.get(key=_alias_key(kind, alias))
        except NotFoundError as error:
            raise NotFoundError(unknown) from error
        record = _verified_content(data, what=f"The alias {alias!r} of a {kind}")
        return str(record["id"])

    def _upload(self, manifest: Manifest, folder: Path) -> None:
        """Store the files and make sure that the store took the bytes that the manifest names."""
        for entry in manifest.files:
            written = self._store.put_file(key=_prefix(manifest.kind, manifest.id) + entry.path, path=folder / entry.path)
            if written.sha256 != entry.sha256:
                raise IntegrityError(f"The file {entry.path!r} of {manifest.kind} {manifest.id} changed while it was committed.")

    def _same_as_committed(self, sealed: AnyKindOfManifest) -> AnyKindOfManifest:
        """What is committed under the id, if it is the same content made at another time."""
        committed = self.get(sealed.kind, sealed.id)
        ignored = {"created", "digest"}
        if type(committed) is type(sealed) and committed.model_dump(exclude=ignored) == sealed.model_dump(exclude=ignored):
            return committed
        raise AlreadyExistsError(f"The {sealed.kind} {sealed.id} is committed with other content; committed things never change.")


def _entry(manifest: Manifest, path: str) -> FileEntry:
    entry = next((entry for entry in manifest.files if entry.path == path), None)
    if entry is None:
        raise NotFoundError(f"The {manifest.kind} {manifest.id} has no file {path[:_ECHO_LENGTH_MAX]!r}.")
    return entry


def _prefix(kind: Kind, identifier: str) -> str:
    return f"{FOLDERS[kind]}/{identifier}/"


def _alias_key(kind: Kind, alias: str) -> str:
    return f"aliases/{FOLDERS[kind]}/{alias}.json"


def _seal(manifest: AnyKindOfManifest, files: list[FileEntry]) -> AnyKindOfManifest:
    """The manifest with its files and its digest."""
    complete = manifest.model_copy(update={"files": files})
    return complete.model_copy(update={"digest": content_digest(complete.model_dump(mode="json"))})


def _open(kind: Kind, identifier: str, data: bytes) -> AnyManifest:
    """Verify a stored manifest and give it its type; fields that a later version added are left out, the digest covers them."""
    what = f"The manifest of {kind} {identifier}"
    content = _verified_content(data, what=what)
    try:
        manifest = MANIFEST_TYPES[kind].model_validate(content, extra="ignore")
    except ValidationError as error:
        raise integrity_failure(what, kind="manifest") from error
    if manifest.id != identifier:
        raise integrity_failure(what, kind="manifest")
    return manifest


def _verified_content(data: bytes, *, what: str) -> dict[str, Any]:
    """The JSON object in `data`, which must have the digest that it names."""
    try:
        content = json.loads(data)
        actual = content_digest(content)
    except (ValueError, AttributeError, RecursionError) as error:
        raise integrity_failure(what, kind="manifest") from error
    verify_digest(what=what, kind="manifest", expected=str(content.get("digest")), actual=actual)
    return dict(content)
