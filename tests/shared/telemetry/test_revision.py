"""The commit that is running: the image's file, else git's word in a checkout, else unknown."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.telemetry import revision
from shared.telemetry.revision import UNKNOWN, lethe_revision


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    lethe_revision.cache_clear()
    yield
    lethe_revision.cache_clear()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with one commit, in which the code seems to lie."""
    monkeypatch.setattr(revision, "CHECKOUT", tmp_path)
    (tmp_path / "code").write_text("1")
    for command in (
        ["init", "--quiet"],
        ["add", "code"],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", "One"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_checkout_tells_its_commit_and_whether_files_differ(checkout: Path) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, check=True, capture_output=True, text=True).stdout.strip()
    assert lethe_revision() == commit
    (checkout / "code").write_text("2")
    assert lethe_revision() == commit, "git is asked once"
    lethe_revision.cache_clear()
    assert lethe_revision() == f"{commit}-dirty"


def test_file_of_the_image_comes_first(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revision, "WRITTEN", checkout / "revision.txt")
    (checkout / "revision.txt").write_text("5c8c310\n")
    assert lethe_revision() == "5c8c310"


def test_git_is_not_asked_about_a_folder_above(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "site-packages").mkdir()
    monkeypatch.setattr(revision, "CHECKOUT", checkout / "site-packages")
    assert lethe_revision() == UNKNOWN


def test_nothing_is_known_without_git(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert lethe_revision() == UNKNOWN


def test_nothing_is_known_of_a_repository_that_git_cannot_read(checkout: Path) -> None:
    (checkout / ".git" / "HEAD").write_text("none")
    assert lethe_revision() == UNKNOWN
