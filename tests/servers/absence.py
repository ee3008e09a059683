"""What happens when a server's program is not installed: a skip that names the package, in CI a failure."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest


def find_program(program: str, *, package: str, folders: Iterable[Path] = ()) -> str:
    """The path of a program, looked up beside this Python first; absent, the test is skipped, or fails where CI=true."""
    beside = Path(sys.executable).parent / program
    searched = os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath)])
    found = str(beside) if beside.exists() else shutil.which(program, path=searched)
    if found is not None:
        return found
    message = f"{program} is not installed; install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
