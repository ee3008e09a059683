"""Files of a data set are found below its folder, and never outside the roots."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import DatasetError, ForbiddenError
from shared.imaging.source_folder import SourceFolder, is_plain


@pytest.fixture
def folder(tmp_path: Path) -> SourceFolder:
    (tmp_path / "set" / "films").mkdir(parents=True)
    (tmp_path / "set" / "films" / "1.png").write_bytes(b"x")
    (tmp_path / "secret.png").write_bytes(b"y")
    return SourceFolder(tmp_path / "set")


def test_first_file_that_exists_is_found(folder: SourceFolder) -> None:
    assert folder.find("1.png", "films/1.png") == folder.path.resolve() / "films/1.png"


@pytest.mark.parametrize("name", ["none.png", "films", "../secret.png", "/etc/hostname", "a\0b", ""])
def test_other_names_find_nothing(folder: SourceFolder, name: str) -> None:
    assert name in {"none.png", "films"} or not is_plain(name)
    assert folder.find(name) is None


def test_link_may_lead_to_a_root_and_nowhere_else(folder: SourceFolder, tmp_path: Path) -> None:
    (folder.path / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ForbiddenError, match=r"link\.png lies outside"):
        folder.find("link.png")
    assert SourceFolder(folder.path, [tmp_path]).find("link.png") == tmp_path / "secret.png"


def test_folder_whose_name_begins_like_a_root_is_outside(folder: SourceFolder, tmp_path: Path) -> None:
    (tmp_path / "set-two").mkdir()
    with pytest.raises(ForbiddenError):
        folder.inside(tmp_path / "set-two" / "train.csv", "train.csv")


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere does not exist"):
        SourceFolder(tmp_path / "nowhere")
