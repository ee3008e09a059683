"""Objects as files below one folder: the store of the embedded mode."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from shared.errors import AlreadyExistsError, ConflictError, ForbiddenError, NotFoundError, UnavailableError
from shared.storage.durable import make_durable_folder, read_chunks, write_durable
from shared.storage.keys import validate_key, validate_prefix
from shared.storage.metrics import measured, record_capabilities
from shared.storage.object_store import Listing, Names, ObjectInfo


class DirectoryStore:
    """An ObjectStore on a local file system with hard links; it keeps no digests beside the files, the catalog's manifests do."""

    def __init__(self, root: Path) -> None:
        make_durable_folder(root.absolute())
        self._root = root.resolve()

    def put(self, *, key: str, data: bytes, if_absent: bool = False) -> ObjectInfo:
        """Write an object whole or not at all."""
        with measured("put"):
            return self._write(key, [data], if_absent=if_absent)

    def put_file(self, *, key: str, path: Path) -> ObjectInfo:
        """Write a local file's content, streamed."""
        with measured("put_file"), path.open("rb") as source:
            return self._write(key, read_chunks(source), if_absent=False)

    def get(self, *, key: str) -> bytes:
        """Read an object."""
        with measured("get"), _reading(key):
            return self._path(key).read_bytes()

    def get_file(self, *, key: str, path: Path) -> ObjectInfo:
        """Stream an object into a local file."""
        with measured("get_file"):
            with _reading(key):
                source = self._path(key).open("rb")
            with source:
                size_bytes, sha256 = write_durable(read_chunks(source), target=path)
        return ObjectInfo(key=key, size_bytes=size_bytes, sha256=sha256)

    def stat(self, *, key: str) -> ObjectInfo:
        """Look an object up; the digest is not known without reading."""
        with measured("stat"), _reading(key):
            path = self._path(key)
            if path.is_dir():
                raise IsADirectoryError
            return ObjectInfo(key=key, size_bytes=path.stat().st_size, sha256=None)

    def exists(self, *, key: str) -> bool:
        """Whether the key is taken."""
        return self._path(key).is_file()

    def list(self, *, prefix: str, start_after: str = "", limit: int = 1000) -> Listing:
        """List objects by key."""
        validate_prefix(prefix)
        with measured("list"):
            return list(islice(self._walk(self._root, "", prefix, start_after), limit))

    def list_kept(self, *, prefix: str, start_after: str = "", limit: int = 1000) -> Names:
        """List keys; what is deleted from a folder is gone."""
        return [info.key for info in self.list(prefix=prefix, start_after=start_after, limit=limit)]

    def list_folders(self, *, prefix: str) -> Names:
        """List the names of the folders directly below `prefix` that hold objects."""
        validate_prefix(prefix)
        folder = self._root / prefix
        with measured("list"):
            names = [name for name in _sorted_names(folder) if name.endswith("/")] if folder.is_dir() else []
            return [name[:-1] for name in names if any(self._walk(folder / name, prefix + name, "", ""))]

    def delete(self, *, key: str) -> None:
        """Remove an object; its folder stays, because another writer may be about to use it."""
        with measured("delete"):
            path = self._path(key)
            if path.is_file():
                with _writing(key):
                    path.unlink(missing_ok=True)

    def probe(self) -> dict[str, bool]:
        """Try what the folder's file system can do; one without hard links raises UnavailableError, since it cannot take commits."""
        key = f"probe/{secrets.token_hex(8)}"
        capabilities = {"read_back": False, "digest": True, "conditional_put": False, "versioning": False}
        self.put(key=key, data=key.encode(), if_absent=True)
        try:
            capabilities["read_back"] = self.get(key=key) == key.encode()
            self.put(key=key, data=b"", if_absent=True)
        except AlreadyExistsError:
            capabilities["conditional_put"] = True
        finally:
            self.delete(key=key)
        record_capabilities("directory", capabilities)
        return capabilities

    def close(self) -> None:
        """Nothing is held open between calls."""

    def _path(self, key: str) -> Path:
        path = self._root / validate_key(key)
        if not path.resolve().is_relative_to(self._root):
            raise ForbiddenError(f"The object key {key!r} leads outside the store's folder through a link.")
        return path

    def _write(self, key: str, chunks: Iterable[bytes], *, if_absent: bool) -> ObjectInfo:
        path = self._path(key)
        with _writing(key):
            size_bytes, sha256 = write_durable(chunks, target=path, if_absent=if_absent)
        return ObjectInfo(key=key, size_bytes=size_bytes, sha256=sha256)

    def _walk(self, folder: Path, folder_key: str, prefix: str, start_after: str) -> Iterator[ObjectInfo]:
        """Yield objects in key order, entering only folders that can hold keys wanted."""
        for name in _sorted_names(folder):
            key = folder_key + name
            if not key.endswith("/"):
                if key.startswith(prefix) and key > start_after:
                    yield from _info(folder / name, key)
            elif (key.startswith(prefix) or prefix.startswith(key)) and (key > start_after or start_after.startswith(key)):
                yield from self._walk(folder / name, key, prefix, start_after)


def _sorted_names(folder: Path) -> Names:
    """Names of visible files, and of folders with a slash behind, so that they sort as keys do; links are not followed."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".") and not entry.is_symlink()]
        return sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in visible)


def _info(path: Path, key: str) -> Iterator[ObjectInfo]:
    """Yield the object's size, or nothing where it was deleted while the folder was read."""
    try:
        yield ObjectInfo(key=key, size_bytes=path.stat().st_size, sha256=None)
    except FileNotFoundError:
        return


@contextmanager
def _reading(key: str) -> Iterator[None]:
    """Name the errors of looking up a file."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise NotFoundError(f"There is no object {key!r} in the store.") from error
    except OSError as error:
        raise UnavailableError(f"The store's folder cannot be read ({error.strerror}).") from error


@contextmanager
def _writing(key: str) -> Iterator[None]:
    """Name the errors of placing a file."""
    try:
        yield
    except FileExistsError as error:
        raise AlreadyExistsError(f"The object {key!r} exists already; committed objects never change.") from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise ConflictError(f"The object key {key!r} is a folder of another object, or lies below one.") from error
    except OSError as error:
        raise UnavailableError(f"The store's folder cannot be written ({error.strerror}).") from error
