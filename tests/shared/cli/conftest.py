"""The command line in this process, against stand-in services."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from shared.cli import console
from shared.cli.app import main
from shared.client import LetheClient
from tests.shared.cli.fake_services import FakeServices


class Lethe:
    """Runs the command line in this process against stand-in services."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.services = FakeServices()
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.out = ""
        self.err = ""
        monkeypatch.setattr(LetheClient, "from_settings", lambda _settings: self.services.client())

    def __call__(self, *arguments: str) -> int:
        self._monkeypatch.setattr(sys, "argv", ["lethe", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        self.out, self.err = self._capsys.readouterr()
        return int(ended.value.code or 0)

    def on_a_terminal(self, width: int) -> None:
        """From now on what is printed is for people, in so many columns and without colours."""
        self._monkeypatch.setattr(console, "OUT", Console(width=width, force_terminal=True, color_system=None))

    def asked(self, path: str) -> dict[str, Any]:
        return self.services.bodies[path][0]


@pytest.fixture(autouse=True)
def restored_logging(logged: Callable[[], str]) -> None:
    """`main` configures logging for good; after each test it is as before."""
    del logged


@pytest.fixture
def lethe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Lethe:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console.OUT, "width", 200)
    return Lethe(monkeypatch, capsys)
