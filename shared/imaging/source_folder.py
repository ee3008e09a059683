"""The folder that a data set is read from: its files are found by name, and none outside the allowed roots is ever opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from shared.errors import DatasetError, ForbiddenError


class SourceFolder:
    """A folder whose files, symlinks followed, lie within `roots` (the folder itself, without any)."""

    def __init__(self, folder: Path, roots: Sequence[Path] = ()) -> None:
        if not folder.is_dir():
            raise DatasetError(f"the folder {folder} does not exist", field="source.uri")
        self.path = folder
        self._roots = [str(root.resolve()) for root in roots] or [str(folder.resolve())]

    def table(self, name: str) -> Path:
        """The file of a table; it need not exist."""
        return self.inside(self.path / name, name)

    def inside(self, path: Path, name: str) -> Path:
        """The path with symlinks followed; ForbiddenError, which names `name`, when it leaves the roots."""
        resolved = os.path.realpath(path)
        if not any(resolved == root or resolved.startswith(root.rstrip("/") + "/") for root in self._roots):
            raise ForbiddenError(f"{name} lies outside the folders that data may be imported from")
        return Path(resolved)

    def find(self, *names: str) -> Path | None:
        """The first of these files that exists."""
        for name in names:
            if is_plain(name) and os.path.isfile(candidate := self.path / name):  # noqa: PTH113 - called for every film
                return self.inside(candidate, name)
        return None


def is_plain(name: str) -> bool:
    """Whether a name stays below the folder that it is joined to, links aside."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name
