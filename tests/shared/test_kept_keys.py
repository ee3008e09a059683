"""Keys that are made once and kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.errors import UnavailableError
from shared.kept_keys import kept_key


def test_missing_key_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.key"
    key = kept_key(path)
    kept_key.cache_clear()
    assert kept_key(path) == key == path.read_bytes()
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["a.key"]


def test_key_is_on_the_disk_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes | str] = []
    sync = os.fsync

    def recorded(descriptor: int) -> None:
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append(place.name if place.is_dir() else place.read_bytes())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    key = kept_key(tmp_path / "keys" / "a.key")
    assert synced == [tmp_path.name, key, "keys"]


def test_key_that_another_process_made_first_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b.key"
    link = os.link

    def lose_the_race(source: Path, target: Path) -> None:
        target.write_bytes(b"x" * 32)
        link(source, target)

    monkeypatch.setattr(os, "link", lose_the_race)
    assert kept_key(path) == b"x" * 32
    assert [file.name for file in tmp_path.iterdir()] == ["b.key"]


def test_key_that_can_neither_be_read_nor_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match=r"file/d\.key is not there to be read, and cannot be made \(Not a directory\)"):
        kept_key(tmp_path / "file" / "d.key")


def test_torn_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.key"
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="must hold 32 bytes"):
        kept_key(path)
