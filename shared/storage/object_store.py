"""The contract of an object store, as narrow as what Lethe needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is known of an object without its bytes."""

    key: str
    size_bytes: int
    # None where the store keeps no digest (a directory, a listing, an object that others wrote): the catalog's manifests hold them all.
    sha256: str | None


# Named here, because inside the protocol `list` is the method.
Listing = list[ObjectInfo]
Names = list[str]


class ObjectStore(Protocol):
    """Whole objects under keys; safe to share between threads, not across a fork.

    No key is a folder of another one. Missing keys raise NotFoundError, a silent or refusing server UnavailableError.
    """

    def put(self, *, key: str, data: bytes, if_absent: bool = False) -> ObjectInfo:
        """Write an object whole or not at all; with `if_absent`, AlreadyExistsError where the key is taken."""
        ...

    def put_file(self, *, key: str, path: Path) -> ObjectInfo:
        """Write a local file's content, streamed."""
        ...

    def get(self, *, key: str) -> bytes:
        """Read an object; IntegrityError where the store kept a digest that the bytes do not have."""
        ...

    def get_file(self, *, key: str, path: Path) -> ObjectInfo:
        """Stream an object into a local file that appears only when complete; the digest told is that of the bytes received."""
        ...

    def stat(self, *, key: str) -> ObjectInfo:
        """Look an object up without reading it."""
        ...

    def exists(self, *, key: str) -> bool:
        """Whether the key is taken."""
        ...

    def list(self, *, prefix: str, start_after: str = "", limit: int = 1000) -> Listing:
        """List at most `limit` objects whose keys begin with `prefix` and sort behind `start_after`, by key, without digests."""
        ...

    def list_kept(self, *, prefix: str, start_after: str = "", limit: int = 1000) -> Names:
        """The keys that `list` would name, and those under which the store keeps an object that a deletion only hid."""
        ...

    def list_folders(self, *, prefix: str) -> Names:
        """List the names of the folders directly below `prefix` (empty or ending in '/') that hold objects, sorted."""
        ...

    def delete(self, *, key: str) -> None:
        """Remove an object; a missing one is no error."""
        ...

    def probe(self) -> dict[str, bool]:
        """Try what the store can do: `read_back`, `digest`, `conditional_put` and `versioning`, false where it is missing."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
