"""A folder is described by its files, and recognised by every byte of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.catalog.folders import describe_folder, folder_matches
from shared.errors import InvalidRequestError


def test_folder_is_described_by_path_size_and_digest(folder: Path) -> None:
    entries = describe_folder(folder)
    assert [entry.path for entry in entries] == ["model_index.json", "unet/config.json", "unet/weights.safetensors"]
    assert [entry.size_bytes for entry in entries] == [2, 13, 256_000]
    assert entries[0].sha256 == hashlib.sha256(b"{}").hexdigest()


def test_untouched_folder_matches(folder: Path) -> None:
    assert folder_matches(folder, describe_folder(folder))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model_index.json").write_bytes(b"[]"),
        lambda folder: (folder / "model_index.json").write_bytes(b""),
        lambda folder: (folder / "model_index.json").unlink(),
        lambda folder: (folder / "pipeline.py").write_bytes(b""),
        lambda folder: (folder / ".hidden").write_bytes(b""),
        lambda folder: (folder / "unet" / "link").symlink_to(folder / "model_index.json"),
        lambda folder: (folder / "unet").rename(folder / "vae"),
    ],
)
def test_damaged_folder_does_not_match(folder: Path, damage: Callable[[Path], object]) -> None:
    entries = describe_folder(folder)
    damage(folder)
    assert not folder_matches(folder, entries)


@pytest.mark.parametrize("name", [".hidden", "two words", "ä"])
def test_odd_name_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    with pytest.raises(InvalidRequestError, match="object key"):
        describe_folder(folder)


def test_link_is_refused_and_named(folder: Path) -> None:
    (folder / "unet" / "link").symlink_to("/etc/passwd")
    with pytest.raises(InvalidRequestError, match="'unet/link' is a link"):
        describe_folder(folder)
