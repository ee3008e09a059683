"""Keys that are made once and kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.kept_keys import kept_key

if TYPE_CHECKING:
    from pathlib import Path


def test_missing_key_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.key"
    key = kept_key(path)
    kept_key.cache_clear()
    assert kept_key(path) == key == path.read_bytes()
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["a.key"]


def test_key_that_another_process_made_first_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b.key"
    link = type(path).hardlink_to

    def lose_the_race(self: Path, target: Path) -> None:
        self.write_bytes(b"x" * 32)
        link(self, target)

    monkeypatch.setattr(type(path), "hardlink_to", lose_the_race)
    assert kept_key(path) == b"x" * 32


def test_torn_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.key"
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="must hold 32 bytes"):
        kept_key(path)
