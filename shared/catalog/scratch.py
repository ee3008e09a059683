"""A folder under LETHE_HOME in which something is put together before it is committed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.settings import Settings


@contextmanager
def scratch_folder(settings: Settings, identifier: str) -> Iterator[Path]:
    """An empty folder for one id, gone afterwards; what a killed attempt left is cleared by the next one."""
    folder = settings.home.resolve() / "detections" / identifier
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
