"""Scratch folders: empty at the start, gone at the end, cleared of what a killed attempt left."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.catalog.scratch import scratch_folder
from shared.settings import Settings


def test_scratch_folder_lies_in_the_home_and_is_gone_afterwards(tmp_path: Path) -> None:
    with scratch_folder(Settings(home=tmp_path), "gal_1") as folder:
        assert folder.is_relative_to(tmp_path)
        (folder / "codes").write_text("x")
    assert not folder.exists()


def test_scratch_folder_is_gone_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), scratch_folder(Settings(home=tmp_path), "gal_1") as folder:
        raise RuntimeError
    assert not folder.exists()


def test_what_a_killed_attempt_left_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / "detections" / "gal_1"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    with scratch_folder(Settings(home=tmp_path), "gal_1") as folder:
        assert list(folder.iterdir()) == []
