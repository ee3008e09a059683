"""Which commit is running: written into the images when they are built, asked of git in a checkout."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

UNKNOWN: Final = "unknown"
# The Dockerfile writes it; no checkout has it.
WRITTEN: Final = Path(__file__).with_name("revision.txt")
CHECKOUT: Final = Path(__file__).parents[2]
_GIT_SECONDS: Final = 5


@cache
def lethe_revision() -> str:
    """The commit of the running code, with `-dirty` where files differ from it; asked once a process."""
    if WRITTEN.exists():
        return WRITTEN.read_text(encoding="utf-8").strip() or UNKNOWN
    return _ask_git(CHECKOUT) if (CHECKOUT / ".git").exists() else UNKNOWN


def _ask_git(folder: Path) -> str:
    """What git says of a checkout; one that it does not trust, or cannot read, has no known revision."""
    git = shutil.which("git")
    if git is None:
        return UNKNOWN
    command = [git, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        told = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return told or UNKNOWN
