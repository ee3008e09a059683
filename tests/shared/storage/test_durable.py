"""Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import IntegrityError
from shared.storage.durable import CHUNK_BYTES, make_durable_folder, read_chunks, write_durable


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_chunks_become_one_file_with_size_and_digest(tmp_path: Path) -> None:
    written = write_durable([b"one ", b"", b"two"], target=tmp_path / "a" / "b" / "file")
    assert written == (7, hashlib.sha256(b"one two").hexdigest())
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"one two"
    assert names(tmp_path / "a" / "b") == ["file"]


def test_file_is_private_to_its_owner(tmp_path: Path) -> None:
    write_durable([b""], target=tmp_path / "file")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_interrupted_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    def failing() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("power cut")

    write_durable([b"old"], target=tmp_path / "file")
    with pytest.raises(RuntimeError, match="power cut"):
        write_durable(failing(), target=tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_taken_name_is_kept_with_if_absent(tmp_path: Path) -> None:
    write_durable([b"first"], target=tmp_path / "file", if_absent=True)
    with pytest.raises(FileExistsError):
        write_durable([b"second"], target=tmp_path / "file", if_absent=True)
    assert (tmp_path / "file").read_bytes() == b"first"
    assert names(tmp_path) == ["file"]


def test_unexpected_digest_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError):
        write_durable([b"data"], target=tmp_path / "file", expected=hashlib.sha256(b"other").hexdigest())
    assert names(tmp_path) == []


def test_file_and_folders_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    write_durable([b"data"], target=tmp_path / "new" / "file")
    assert [synced[0], synced[2]] == [tmp_path.name, "new"]
    assert synced[1].endswith(".partial")
    assert len(synced) == 3


def test_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        make_durable_folder(tmp_path / "a" / "b")


def test_chunks_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(CHUNK_BYTES + 3))
    with (tmp_path / "file").open("rb") as source:
        assert [len(chunk) for chunk in read_chunks(source)] == [CHUNK_BYTES, 3]
