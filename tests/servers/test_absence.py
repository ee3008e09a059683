"""A server that is not installed is told loudly: by a skip, in CI by a failure."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.servers.absence import find_program


def test_absent_program_skips_naming_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-server is not installed; install some-package"):
        find_program("no-such-server", package="some-package")


def test_absent_program_in_ci_fails_naming_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-server is not installed; install some-package"):
        find_program("no-such-server", package="some-package")


def test_program_beside_this_python_is_found() -> None:
    assert find_program(Path(sys.executable).name, package="none") == str(Path(sys.executable).parent / Path(sys.executable).name)
